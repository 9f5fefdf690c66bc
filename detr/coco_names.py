"""COCO's class names by category id, which is also the label of the official checkpoints."""

# Ids 0, 12, 26, 29, 30, 45, 66, 68, 69, 71 and 83 name no class.
_NAMES = """
-, person, bicycle, car, motorcycle, airplane, bus, train, truck, boat,
traffic light, fire hydrant, -, stop sign, parking meter, bench, bird, cat, dog, horse,
sheep, cow, elephant, bear, zebra, giraffe, -, backpack, umbrella, -,
-, handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat,
baseball glove, skateboard, surfboard, tennis racket, bottle, -, wine glass, cup, fork, knife,
spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot, hot dog, pizza,
donut, cake, chair, couch, potted plant, bed, -, dining table, -, -,
toilet, -, tv, laptop, mouse, remote, keyboard, cell phone, microwave, oven,
toaster, sink, refrigerator, -, book, clock, vase, scissors, teddy bear, hair drier,
toothbrush
"""
NUM_LABELS = 91
COCO_NAMES: dict[int, str] = {
    label: name for label, name in enumerate(entry.strip() for entry in _NAMES.split(",")) if name != "-"
}
