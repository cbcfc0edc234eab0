"""Subjects for images that no shipped prompt set trains on."""

SUBJECTS = (
    "a lion", "a wolf", "a giraffe", "a koala", "an owl", "an octopus", "a dolphin", "a snail",
    "a cactus", "a sunflower", "a tulip", "a pineapple", "a strawberry", "a lemon", "an avocado",
    "a doughnut", "a croissant", "a cookie", "a teapot", "a volcano", "a train", "a bus",
    "a helicopter", "an airplane", "a balloon", "a kite", "a violin", "a trumpet", "a camera",
    "a candle", "a telescope", "a snowman",
)  # fmt: skip
