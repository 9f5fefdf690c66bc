"""DETR, End-to-End Object Detection with Transformers (Carion et al., 2020): model, data, training and evaluation.

The core knows no experiment tracker and no configuration framework. Read these six files first:

    config.py         every setting with its unit, meaning and default
    models/detr.py    the model's forward pass
    matcher.py        predictions to objects, one to one
    criterion.py      the losses, and the two denominators that make accumulation exact
    train.py          the training loop, a generator of records; step.py has one step of it
    evaluation.py     COCO AP
"""
