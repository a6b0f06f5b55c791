"""What scenes.yaml asks of a question: its picture, its words, and whether an answer is right."""

from PIL import Image


def picture(doc):
    return [Image.open(doc["image"]).convert("RGB")]


def question(doc, lmms_eval_specific_kwargs=None):
    return doc["text"]


def is_right(doc, results):
    return {"exact_match": float(results[0].strip().lower() == doc["answer"].lower())}
