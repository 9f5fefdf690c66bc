"""Every metric and column in plain words: the help marks of the dashboard."""

import re

from experiments.results import signals

WORDS = {
    "AP": "Average precision, times 100: how well boxes of all classes are found and placed, averaged over ten "
    "required overlaps from 0.50 to 0.95. Higher is better.",
    "AP50": "AP that asks only for an overlap (intersection over union) of 0.50.",
    "AP75": "AP that asks for an overlap (intersection over union) of 0.75.",
    "APS": "AP of small objects: below 32 x 32 pixels on COCO; a smaller set may draw the line elsewhere.",
    "APM": "AP of objects of medium size: 32 x 32 to 96 x 96 pixels on COCO.",
    "APL": "AP of large objects: above 96 x 96 pixels on COCO.",
    "AR1": "Average recall with one detection an image: the share of objects found, averaged over the overlaps of AP.",
    "AR10": "Average recall with ten detections an image.",
    "AR100": "Average recall with a hundred detections an image: how much is found at all, whatever else is shown.",
    "ARS": "Average recall of small objects.",
    "ARM": "Average recall of objects of medium size.",
    "ARL": "Average recall of large objects.",
    "loss": "What training makes small: the weighted sum of class, box L1 and box GIoU losses over all decoder layers.",
    "loss_ce": "Class loss of the last decoder layer: cross-entropy over the classes and 'no object'.",
    "loss_bbox": "Distance of matched boxes from their objects, as shares of the image's sides (L1).",
    "loss_giou": "How little matched boxes overlap their objects: 1 minus the generalised intersection over union.",
    "class_error": "Per cent of matched queries whose likeliest class is wrong.",
    "cardinality_error": "By how many the number of detections that are not 'no object' misses the number of objects.",
    "lr": "Learning rate of everything but the backbone.",
    "lr_backbone": "Learning rate of the backbone.",
    "grad_norm": "Length of the gradient before clipping. Above the clip norm the gradient is scaled down to it.",
    "clip_scale": "Factor by which clipping scaled the gradient: 1 where it left it alone.",
    "skipped_steps": "Steps so far that were left out because their gradient overflowed in float16.",
    "data_time": "Seconds of a step that went into waiting for images.",
    "step_time": "Seconds of a whole step.",
    "seconds": "Seconds of training.",
    "step": "Optimiser steps done.",
    "epoch": "Times that the training set was seen.",
    "samples": "Training images seen.",
    "num_steps": "Optimiser steps of the whole run.",
    # columns of tables
    "arm": "One combination of the levels that the ablation compares.",
    "seeds": "Finished runs of the planned ones. Each seed is a training of its own.",
    "seed": "Fixes the starting weights and the order of images; arms are compared seed by seed.",
    "interval over seeds": "95 % t interval over seeds: what other trainings would give on the same images.",
    "interval over images": "95 % interval over validation images: what these trained models would give on other "
    "images, without the bias of AP on few images. It says nothing of other seeds.",
    "bias": "By how much AP on so few images overstates AP elsewhere.",
    "difference (seeds)": "By how much the arm's mean is above the baseline's, AP in points; in brackets the number of "
    "seeds.",
    "its interval": "95 % t interval over seeds of the difference. Without two seeds there is none.",
    "difference": "The first side's mean minus the second's; AP and AR in points.",
    "metric": "The metric that the contrast is judged by.",
    "steps": "Optimiser steps done.",
    "epochs": "Times that the training set was seen.",
    "clipped": "Share of the steps whose gradient was longer than the clip norm and was scaled down. Where it is 100 % "
    "in two arms, their clip norms differ by a factor that AdamW cancels.",
    "minutes": "Minutes of training.",
    "note": "Runs that are missing or failed; for published results, in which setting they were measured.",
    "contrast": "What is compared with what.",
    "role": "Primary: what the ablation is for. Secondary: the other factors, corrected by Holm. Exploratory: not "
    "corrected for the number of comparisons.",
    "verdict": "Better and worse, in the metric's direction: the interval over seeds excludes 0; on these images, "
    "unless that of seeds and images together does too. Equivalent: it lies within the margin. Undecided: neither. "
    "Provisionally: before the planned number of seeds. One seed: nothing tells how far seeds scatter.",
    "p": "Probability of so large a difference if there were none; after Holm's correction for secondary contrasts.",
    "changes": "Settings that differ between the two sides.",
    "effect": "A factor's level against its baseline level, or two factors together.",
    "kind": "Main: one factor, averaged over the others. Interaction: how far two factors do not simply add up.",
    "estimate": "In the unit of the metric; AP and AR in points.",
    "runs": "Number of runs that the figure rests on.",
    "condition": "A fault of a run; the rules stand below the table.",
    "reason": "What was seen.",
    "state": "How far the run is.",
    "done": "Share of the run's optimiser steps.",
    "time left": "Of this run, at its speed so far.",
    "error": "Why the run ended.",
    "of": "Ablation or sweep of the run, else its experiment.",
    # at a score threshold
    "hits": "Detections from the threshold on that overlap an object of their class by at least half (IoU 0.5). Each "
    "object is found once, by its best detection.",
    "false alarms": "Detections from the threshold on that are no hits. Those on crowds count neither way.",
    "misses": "Objects that no detection from the threshold on finds.",
    "precision": "hits / (hits + false alarms): how much of what is shown is right. All classes and images together.",
    "recall": "hits / (hits + misses): how many of the objects are found. All classes and images together.",
    "F1": "Harmonic mean of precision and recall: high only where both are.",
    "best F1": "The highest F1 that any threshold reaches, chosen on these very images.",
    "best threshold": "The threshold of the best F1.",
    "D-ECE": "Detection expected calibration error (Küppers et al. 2020): how far scores are from the share of hits "
    "among the detections that have them, on average over detections. 0 is best.",
    "classification": "On an object (IoU from 0.5 on), but of another class.",
    "localisation": "Of the right class, but only partly on the object (IoU 0.1 to 0.5).",
    "both": "Only partly on an object, and of another class.",
    "duplicate": "On an object of its class that a better detection has found already.",
    "background": "On no object (IoU up to 0.1).",
    "missed": "An object that no detection finds, and no classification or localisation error is about.",
    "false positives": "What AP50 would gain if all hits scored above all false alarms.",
    "false negatives": "What AP50 would gain if objects that are not found did not count.",
}


def explain(name: str) -> str | None:
    """Meaning of a metric or column in words; None if the glossary does not know it."""
    for prefix in ("val/AP/", "AP of "):
        if name.startswith(prefix):
            return f"AP of the class {name.removeprefix(prefix)} alone."
    if match := re.fullmatch(r"val[/ ]ema[/ ](.+)", name):
        return f"Of the moving average of the weights: {explain(f'val/{match[1]}') or match[1]}"
    if match := re.fullmatch(r"train[/ ]lr_(.+)", name):
        return WORDS.get(f"lr_{match[1]}") or f"Learning rate of the group {match[1]} of optim.groups."
    return signals.explain(name) or WORDS.get(re.sub(r"^(train|val|progress)[/ ]", "", name))
