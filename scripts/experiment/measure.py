"""What a trained model is measured by, on held-out scenes of one split.

Everything is teacher-forced: an answer counts as right where no token is likelier than the right colour. In an answer
to a question all words before the colour are the question's own, so it is what the model would have said. Visual
information is `llava_vista.tools.probe`'s: log p with the image minus log p with the image's positions masked out of
attention, at the same position ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from encode import IGNORE, Encoder, Row, pad
from model import make_batch
from prepare import Setup
from torch import Tensor, nn
from world import USUAL

from llava_vista.tools.demo.scenes import COLORS
from llava_vista.tools.demo.text_pretraining import tokenize
from llava_vista.tools.probe.bootstrap import Bootstrap, slope_sums, stack
from llava_vista.tools.probe.forward_trace import Tracer
from llava_vista.tools.probe.measures.visual_information import answer_log_probs

BATCH = 50
RESAMPLES = 500


def _mean(values: Sequence[Tensor]) -> float:
    return float(torch.cat([value.flatten() for value in values]).mean())


def _answer_ids(row: Row) -> Tensor:
    return torch.tensor([label for label in row.labels if label != IGNORE])


def _scored(tracer: Tracer, setup: Setup, rows: Sequence[Row], blind: bool) -> tuple[list[Tensor], list[Tensor]]:
    """Of the answer tokens of each row, with or without the image: log p, and whether no token is likelier."""
    scores: list[Tensor] = []
    hits: list[Tensor] = []
    device = next(tracer.model.parameters()).device
    for start in range(0, len(rows), BATCH):
        part = rows[start : start + BATCH]
        batch = make_batch(part, setup.features, device)
        seen = tracer.trace(batch, blind=blind)
        scores += answer_log_probs(seen, batch["labels"], [row.picture for row in part])
        if seen.layout.answer is None:
            raise RuntimeError("the layout does not tell where the answers are.")
        for logits, answer, row in zip(seen.logits, seen.layout.answer, part, strict=True):
            hits.append(logits[answer.nonzero().flatten() - 1].argmax(dim=-1).cpu() == _answer_ids(row))
    return scores, hits


def measure_captions(tracer: Tracer, setup: Setup, encoder: Encoder, name: str) -> dict[str, Any]:
    """Captions of held-out scenes: likelihood, and visual information by position."""
    rows = [encoder.v1(record) for record in setup.records[name]]
    (seen, hits), (blind, _) = _scored(tracer, setup, rows, False), _scored(tracer, setup, rows, True)
    ids = [_answer_ids(row) for row in rows]
    colors = [torch.isin(answer, torch.tensor(encoder.color_ids)) for answer in ids]
    shapes = [torch.isin(answer, torch.tensor(encoder.shape_ids)) for answer in ids]
    by_mention = torch.stack([score[color] for score, color in zip(seen, colors, strict=True)])  # (N, objects)
    blind_by_mention = torch.stack([score[color] for score, color in zip(blind, colors, strict=True)])
    information = [
        (score - guess).double().masked_fill(~(color | shape), torch.nan)
        for score, guess, color, shape in zip(seen, blind, colors, shapes, strict=True)
    ]
    slope = Bootstrap(len(rows), RESAMPLES, seed=0).ratio(*slope_sums(stack(information)))
    color_slope = Bootstrap(len(rows), RESAMPLES, seed=0).ratio(*slope_sums(by_mention.double()))
    return {
        "nll": -_mean(seen),
        "blind_nll": -_mean(blind),
        "color_nll": -float(by_mention.mean()),
        "color_accuracy": _mean([hit[color].float() for hit, color in zip(hits, colors, strict=True)]),
        "shape_accuracy": _mean([hit[shape].float() for hit, shape in zip(hits, shapes, strict=True)]),
        "shape_nll": -_mean([score[shape] for score, shape in zip(seen, shapes, strict=True)]),
        "color_nll_by_mention": (-by_mention.mean(dim=0)).tolist(),
        "information_by_mention": (by_mention - blind_by_mention).mean(dim=0).tolist(),
        "information": float((by_mention - blind_by_mention).mean()),
        "information_slope": slope.record(),  # nats per token position, over words for shape and colour
        "color_slope": color_slope.record(),  # of log p of the colour, nats per mention
        "position_of_mention": torch.stack([c.nonzero().flatten() for c in colors]).double().mean(dim=0).tolist(),
        "tokens": sum(len(answer) for answer in ids) / len(ids),
    }


def measure_questions(tracer: Tracer, setup: Setup, encoder: Encoder, name: str) -> dict[str, Any]:
    """Questions for a colour: share of right answers, and log-likelihood of the right one."""
    records = setup.records[f"{name}/questions"]
    rows = [encoder.v1(record) for record in records]
    wanted = torch.tensor(encoder.color_ids)
    usual = torch.tensor([COLORS.index(USUAL[shape]) for shape in (_asked_shape(record) for record in records)])
    scores, hits = _scored(tracer, setup, rows, False)
    at = [int(torch.isin(_answer_ids(row), wanted).nonzero()[0]) for row in rows]
    right = torch.tensor([encoder.color_ids.index(int(_answer_ids(row)[i])) for row, i in zip(rows, at, strict=True)])
    correct = torch.stack([hit[i] for hit, i in zip(hits, at, strict=True)])
    return {
        "accuracy": float(correct.float().mean()),
        "nll": -float(torch.stack([score[i] for score, i in zip(scores, at, strict=True)]).mean()),
        "usual_is_right": float((right == usual).float().mean()),  # 0 in breaking scenes
        "questions": len(rows),
    }


def _asked_shape(record: dict[str, Any]) -> str:
    shape: str = record["conversations"][0]["value"].rstrip("?").split()[-1]
    return shape


@torch.no_grad()
def measure_text(model: Any, setup: Setup, split: str) -> float:
    """Negative log-likelihood per learned token of text-only samples: is language harmed?"""
    rows = [Row(ids, labels, "") for ids, labels in tokenize(setup.language_model, setup.text(split))]
    total, count = 0.0, 0
    for start in range(0, len(rows), BATCH):
        ids, labels, mask = (part.to(model.device) for part in pad(rows[start : start + BATCH], image_id=0))
        logits = model.language_model(input_ids=ids, attention_mask=mask).logits[:, :-1]
        summed = nn.functional.cross_entropy(
            logits.reshape(-1, logits.shape[-1]), labels[:, 1:].reshape(-1), ignore_index=IGNORE, reduction="sum"
        )
        total, count = total + float(summed), count + int((labels[:, 1:] != IGNORE).sum())
    return total / count


def measure(model: nn.Module, setup: Setup, split: str) -> dict[str, Any]:
    """Everything, on one split: breaking and plain scenes, captions and questions, and text alone."""
    encoder = Encoder(setup.tokenizer)
    model.eval()
    found: dict[str, Any] = {}
    with Tracer(model) as tracer:
        for kind in ("breaking", "plain"):
            name = f"{split}/{kind}"
            found[kind] = {
                "captions": measure_captions(tracer, setup, encoder, name),
                "questions": measure_questions(tracer, setup, encoder, name),
            }
    found["text_nll"] = measure_text(model, setup, split)
    return found
