"""Draw four things at five strengths of a watercolour map, and score every picture.

CLIPScore says how much of the style there is, IMGScore how much of the untouched picture is left.
"""

from dataclasses import replace
from statistics import mean

from PIL import Image

import lineas_core as lc

THINGS = ["a lion", "an owl", "a house", "a rose"]
STRENGTHS = [0.0, 0.25, 0.5, 0.75, 1.0]
# Of 32 on either side: a fit takes the time of its prompts, and these show the style already.
PROMPTS = 12

model = lc.load_model("emoji-onestep")
prompts = lc.PromptSet.load("emoji-watercolor")
few = replace(prompts, source=prompts.source[:PROMPTS], target=prompts.target[:PROMPTS])
# "parallel" fits all sites on the untouched model: one pass in place of one for each site.
smap = lc.fit("lin-act", model, few, lc.TrainConfig(order="parallel"))

grid = model.sweep(THINGS, [(smap, None)], STRENGTHS, seed=0)
untouched = [row[0] for row in grid.images]
print("strength  CLIPScore  IMGScore")
for column, strength in enumerate(grid.strengths):
    pictures = [row[column] for row in grid.images]
    style = mean(lc.clip_score(pictures, prompts.concept))
    kept = mean(lc.img_score(pictures, untouched))
    print(f"{strength:8.2f}  {style:9.3f}  {kept:8.3f}")

side = untouched[0].width
sheet = Image.new("RGB", (side * len(STRENGTHS), side * len(THINGS)))
for y, row in enumerate(grid.images):
    for x, picture in enumerate(row):
        sheet.paste(picture, (x * side, y * side))
sheet.save("watercolor.png")
print(f"watercolor.png: {sheet.width} x {sheet.height} pixels")
