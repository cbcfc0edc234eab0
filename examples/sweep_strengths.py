"""Write the same text at five strengths of one map, and count where its subject comes up.

One seed along a row, so that what differs from text to text is the strength alone.
"""

import lineas_core as lc

STRENGTHS = [0.0, 0.25, 0.5, 0.75, 1.0]
OPENINGS = ["Once upon a time", "My friends and I", "People often talk about"]
WORDS = ("ball", "club", "fans", "game", "goal", "half", "league", "match", "play", "score", "team")
# 60 steps of 32 prompts ship for this model. These take a third of that time.
CONFIG = lc.TrainConfig(steps=25, batch_size=16, rate=3.0, pooling="last")

model = lc.load_model("smollm2")
smap = lc.train(model, lc.PromptSet.load("football"), CONFIG).map

# Written in float32: in bfloat16 some processors round by how many texts are written at once, and a
# text may then turn another way at a word that was nearly even.
model = lc.load_model("smollm2", dtype="float32")
# 40 tokens instead of 80: half of the time, and enough to see the subject change.
grid = model.sweep(OPENINGS, [(smap, None)], STRENGTHS, seed=0, max_new_tokens=40)
for opening, row in zip(grid.prompts, grid.texts, strict=True):
    print(opening)
    for strength, text in zip(grid.strengths, row, strict=True):
        print(f"  {strength:.2f}  {' '.join(text.split())}")

counts = [sum(row[i].lower().count(w) for row in grid.texts for w in WORDS) for i in range(5)]
print("words of football at each strength:", *counts)
untouched = model.generate(OPENINGS, seed=0, max_new_tokens=40)
print("strength 0 is the untouched model:", [row[0] for row in grid.texts] == untouched)
