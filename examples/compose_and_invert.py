"""Compose two maps into one, and take one of them off again with its inverse.

A composition is a map as any other: it is saved, steered with and inverted like one.
"""

from dataclasses import replace
from statistics import mean

import lineas_core as lc

THINGS = ["a lion", "an owl", "a house", "a rose"]
# Of 32 on either side: a fit takes the time of its prompts, and these show the style already.
PROMPTS = 12

model = lc.load_model("emoji-onestep")


def fit(name: str) -> lc.SteeringMap:
    """Fit a map on the first prompts of a shipped set, all sites in one pass.

    Lin-AcT's own maps act only within a range, which no composition into one map and no inverse
    has; these act everywhere.
    """
    prompts = lc.PromptSet.load(name)
    few = replace(prompts, source=prompts.source[:PROMPTS], target=prompts.target[:PROMPTS])
    return lc.fit("lin-act", model, few, lc.TrainConfig(order="parallel", bounds="none"))


watercolor, pixels = fit("emoji-watercolor"), fit("emoji-pixel-art")
# First half of the one, then a quarter of the other; the order matters.
both = lc.compose([(watercolor, 0.5), (pixels, 0.25)])
back = lc.compose([(both, 1.0), (pixels.at(0.25).inverse(), 1.0)])

untouched = model.generate(THINGS, seed=0)
half = model.generate(THINGS, steer=[(watercolor, 0.5)], seed=0)
print("IMGScore with the untouched pictures, and with those half in watercolour")
steps = {
    "watercolour": [(watercolor, 0.5)],
    "watercolour, then pixels, as two maps": [(watercolor, 0.5), (pixels, 0.25)],
    "watercolour, then pixels, composed": [(both, 1.0)],
    "and the pixels taken off": [(back, 1.0)],
}
for title, maps in steps.items():
    pictures = model.generate(THINGS, steer=maps, seed=0)
    print(
        f"{mean(lc.img_score(pictures, untouched)):.3f}  "
        f"{mean(lc.img_score(pictures, half)):.3f}  {title}"
    )
