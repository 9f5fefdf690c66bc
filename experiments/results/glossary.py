"""Every metric and column in plain words: the help marks of the dashboard."""

import re

WORDS = {
    "AP": "Average precision, times 100: how well boxes of all classes are found and placed, averaged over ten "
    "required overlaps from 0.50 to 0.95. Higher is better.",
    "AP50": "AP that asks only for an overlap (intersection over union) of 0.50.",
    "AP75": "AP that asks for an overlap (intersection over union) of 0.75.",
    "APS": "AP of small objects: below 32 x 32 pixels on COCO.",
    "APM": "AP of objects of medium size: 32 x 32 to 96 x 96 pixels on COCO.",
    "APL": "AP of large objects: above 96 x 96 pixels on COCO.",
    "hits": "Detections from the threshold on that overlap an object of their class by at least half (IoU 0.5). Each "
    "object is found once, by its best detection.",
    "false alarms": "Detections from the threshold on that are no hits. Those on crowds count neither way.",
    "misses": "Objects that no detection from the threshold on finds.",
    "precision": "hits / (hits + false alarms): how much of what is shown is right. All classes and images together.",
    "recall": "hits / (hits + misses): how many of the objects are found. All classes and images together.",
    "F1": "Harmonic mean of precision and recall: high only where both are.",
    "seeds": "Finished runs of the planned ones. Each seed is a training of its own.",
}


def explain(name: str) -> str | None:
    """What a metric or column means; None where the glossary does not know it."""
    return WORDS.get(re.sub(r"^val/", "", name))
