"""Fold a map into a plain checkpoint, and load it with transformers alone.

The steered model and the checkpoint give the same logits: no hooks, and no cost at run time.
"""

import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import lineas_core as lc

# In float32 the two agree to rounding; in bfloat16 the weights are rounded once more.
model = lc.load_model("smollm2", device="cpu", dtype="float32")
# CAA is fitted in one pass over the prompts; any other map folds in the same way.
smap = lc.fit("caa", model, lc.PromptSet.load("football"))

with tempfile.TemporaryDirectory() as home:
    folder = lc.fold(model, smap, strength=0.8, to=Path(home) / "smollm2-football")
    print("files:", ", ".join(sorted(path.name for path in folder.iterdir())))

    tokenizer = AutoTokenizer.from_pretrained(folder)
    plain = AutoModelForCausalLM.from_pretrained(folder)
    inputs = tokenizer(["People often talk about"], return_tensors="pt")
    with torch.no_grad():
        folded = plain(**inputs).logits
        untouched = model.module(**inputs).logits
        with lc.steer(model, [(smap, 0.8)]):
            steered = model.module(**inputs).logits
    print(f"folded against steered: {(folded - steered).abs().max():.1e}")
    print(f"folded against untouched: {(folded - untouched).abs().max():.1e}")
