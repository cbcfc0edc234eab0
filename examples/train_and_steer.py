"""Train a map towards football on the embedded language model, and write with it.

The map is saved and loaded again, so that the last lines need neither prompts nor training.
"""

import lineas_core as lc

# 60 steps of 32 prompts ship for this model, a minute on two cores. These take a third of that, and
# what they learn is weaker.
CONFIG = lc.TrainConfig(steps=25, batch_size=16, rate=3.0, pooling="last")

model = lc.load_model("smollm2")
prompts = lc.PromptSet.load("football")


def report(event: lc.StepEvent) -> None:
    """Print every fifth step."""
    if event.step % 5 == 0:
        print(f"step {event.step} of {event.steps}: loss {event.loss:.4f}")


result = lc.train(model, prompts, CONFIG, on_event=report)
print(f"loss: {result.losses[0]:.4f} -> {result.losses[-1]:.4f}; {result.health.verdict}")
result.map.save("football.safetensors")

smap = lc.SteeringMap.load("football.safetensors")
openings = ["Once upon a time", "My friends and I"]
for strength in (0.0, 1.0):
    texts = model.generate(openings, steer=[(smap, strength)], seed=0, max_new_tokens=40)
    for opening, text in zip(openings, texts, strict=True):
        print(f"strength {strength}: {' '.join((opening + text).split())}")
