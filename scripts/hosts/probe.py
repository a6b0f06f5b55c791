"""`llava-vista probe` on the two checkpoints of a run, and what must hold of it on this host.

Run by train.py in the host's environment: ``python probe.py SETTINGS.json``. Prints one line of figures; exit code 1
and what did not hold otherwise.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from scratch_site import BATCHES
from torch import Tensor

from llava_vista import VistaConfig, attach
from llava_vista.cli import main as command
from llava_vista.tools.probe.conversation_samples import Sample, load_samples, open_image
from llava_vista.tools.probe.forward_trace import Trace, Tracer
from llava_vista.tools.probe.hosts import LoadOptions, ProbeHost, load_checkpoint
from llava_vista.tools.probe.measures.alignment_curves import align
from llava_vista.tools.probe.measures.visual_information import answer_log_probs

REPORT = "@probe "
#: Nats, for log-probabilities that are the same number by another way.
CLOSE = 1e-4
BATCH, NEW_TOKENS = 4, 6


class Failed(Exception):
    """Something did not hold."""


def rows_of_training(folder: Path, image_token: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Ids and labels (T,) without padding, and pixels, of every sample with one image in the batches of a real run."""
    found = []
    for file in sorted(folder.glob(f"{BATCHES}*.pt")):
        batch = torch.load(file, weights_only=True)
        pictures = list(batch["pictures"])
        of_each_row = len(pictures) == len(batch["input_ids"])  # a row without an image has a dummy, or none (VILA)
        for number, (ids, labels, mask) in enumerate(
            zip(batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True)
        ):
            ids, labels = ids[mask.bool()], labels[mask.bool()]
            has_image = bool((ids == image_token).any())
            if of_each_row or has_image:
                pixels = pictures[number] if of_each_row else pictures.pop(0)
            if has_image:
                found.append((ids, labels, pixels))
    return found


def pixels_of(subject: ProbeHost, encoded: dict[str, Any]) -> Tensor:
    batch = subject.collate([encoded])
    pictures = batch["media"]["image"] if "media" in batch else batch["images"]
    return torch.stack(list(pictures)) if len(pictures) > 1 else pictures[0]


def check_words_and_pictures(subject: ProbeHost, encoded: Sequence[dict[str, Any]], training: Path) -> str:
    """What is scored is what the recorded training supervised, on the same pixels."""
    image_token = getattr(subject, "tokenizer", None)
    image_token = getattr(image_token, "media_token_ids", {}).get("image", -200)
    rows = rows_of_training(training, image_token)
    if not rows:
        raise Failed(f"no sample with an image was recorded in {training}")
    mine = [(item["input_ids"], item["labels"], pixels_of(subject, item)) for item in encoded]
    for ids, labels, pixels in rows:
        same = [other for other in mine if torch.equal(other[0], ids)]
        if not same:
            raise Failed(f"training has a sample with ids {ids.tolist()}; the probe has none")
        if not any(torch.equal(other[1], labels) for other in same):
            raise Failed(f"training supervises {labels.tolist()}; the probe scores {same[0][1].tolist()}")
        if not any(other[2].shape == pixels.shape and torch.equal(other[2], pixels) for other in same):
            raise Failed(f"the pixels of a sample differ from training's ({tuple(pixels.shape)})")
    tokens = sum(int((labels[1:] >= 0).sum()) for _, labels, _ in rows)
    return f"ids, labels ({tokens} supervised tokens) and pixels of {len(rows)} training samples"


def check_prompts(subject: Any, samples: Sequence[Sample], encoded: Sequence[dict[str, Any]]) -> str:
    """A question is asked as training asks it, and the model answers."""
    for sample, item in zip(samples, encoded, strict=True):
        asked = subject.ask(sample.turns, open_image(sample.image))["input_ids"]
        if not torch.equal(asked, item["input_ids"][: len(asked)]):
            raise Failed(f"{sample.name}: asked is {asked.tolist()}, trained was {item['input_ids'].tolist()}")
        if bool((item["labels"][len(asked) :] < 0).all()):
            raise Failed(f"{sample.name}: no answer token behind the prompt")
    return f"prompts are training's, {check_generation(subject, samples[0])}"


def check_generation(subject: Any, sample: Sample) -> str:
    """What the model writes itself is what it finds likeliest, token by token, in one forward pass."""
    text, _ = subject.answer(sample.turns[:1], open_image(sample.image), NEW_TOKENS)
    asked = subject.ask(sample.turns[:1], open_image(sample.image))
    prompt = asked["input_ids"]
    new = subject.generate(
        prompt[None], subject.pictures([asked]), attention_mask=torch.ones_like(prompt[None], dtype=torch.bool),
        do_sample=False, min_new_tokens=NEW_TOKENS, max_new_tokens=NEW_TOKENS, eos_token_id=subject.end_ids(),
        use_cache=True,
    )  # fmt: skip
    labels = torch.cat([torch.full_like(prompt, -100), new])
    batch = subject.collate([{**asked, "input_ids": torch.cat([prompt, new]), "labels": labels}])
    with Tracer(subject.model, subject.run) as tracer:
        seen = tracer.trace(batch)
    at = seen.layout.answer[0].nonzero().squeeze(1)  # type: ignore[index]
    logits = seen.logits[0, at - 1]
    logits[:, subject.end_ids()] = -torch.inf  # min_new_tokens forbade them
    behind = float((logits.max(dim=-1).values - logits.gather(1, new[:, None]).squeeze(1)).max())
    if len(at) != NEW_TOKENS or behind > CLOSE:
        raise Failed(f"the model's own {len(at)} tokens are up to {behind:.1e} behind the likeliest")
    if not subject.decode(new.tolist()).strip().startswith(text):
        raise Failed(f"the answer is {text!r}, but {subject.decode(new.tolist())!r} was written")
    return f"own answers are greedy ({behind:.0e} behind the likeliest)"


def check_alignment(subject: ProbeHost, trace: Trace, batch: dict[str, Any]) -> str:
    """The curve, weighted and summed, is VISTA's loss of the batch."""
    worst = 0.0
    for method in ("l2", "cosine"):
        summed = -torch.stack([(getattr(sample, method) * sample.weight).sum() for sample in align(trace)]).mean()
        handle = attach(subject.model, VistaConfig(method=method), add_to_loss=False)
        try:
            with torch.no_grad():
                subject.run(batch)
            attached = handle.loss()
        finally:
            handle.detach()
        worst = max(worst, float((summed - attached).abs() / attached.abs().clamp(min=1e-3)))
    if worst > 1e-4:
        raise Failed(f"the alignment curve, weighted and summed, is {worst:.1e} (relative) off vista_loss")
    return f"alignment summed = vista_loss to {worst:.0e}"


def scores(tracer: Tracer, batch: dict[str, Any], names: Sequence[str], blind: bool = False) -> list[Tensor]:
    return answer_log_probs(tracer.trace(batch, blind=blind), batch["labels"], names)


def difference(left: Sequence[Tensor], right: Sequence[Tensor]) -> float:
    return max(float((one - other).abs().max()) for one, other in zip(left, right, strict=True))


def text_alone(tracer: Tracer, batch: dict[str, Any]) -> float:
    """How far the masked pass is from the decoder on the text's rows alone, at their positions, in hidden units.

    The image's rows go to the end, where no text sees them: rotary tables may be as long as the sequence.
    """
    blind = tracer.trace(batch, blind=True)
    worst = 0.0
    for embeds, hidden, text, image in zip(
        blind.inputs_embeds, blind.last_hidden_state, blind.layout.text, blind.layout.image, strict=True
    ):
        positions = torch.arange(len(text))
        order = torch.cat([positions[text], positions[image]])
        with torch.no_grad():
            output = tracer.decoder(inputs_embeds=embeds[None, order], position_ids=order[None], use_cache=False)
        plain = output[0][0, : int(text.sum())]
        worst = max(worst, float((plain - hidden[text]).abs().max()))
    return worst


def check_information(subject: ProbeHost, encoded: Sequence[dict[str, Any]], names: Sequence[str]) -> str:
    """An identical image says nothing, another one does; padding changes nothing; masked is without."""
    batch = subject.collate(encoded)
    if bool(batch["attention_mask"].all()):
        raise Failed("the batch is not ragged, so padding cannot be checked")
    with Tracer(subject.model, subject.run) as tracer:
        seen, again = scores(tracer, batch, names), scores(tracer, batch, names)
        if difference(seen, again) != 0:
            raise Failed(f"the same image twice gives {difference(seen, again)} nats of information")
        blind = scores(tracer, batch, names, blind=True)
        if difference(seen, blind) < CLOSE:
            raise Failed(f"masking the image changes nothing ({difference(seen, blind):.1e} nats)")
        alone = [scores(tracer, subject.collate([item]), [name])[0] for item, name in zip(encoded, names, strict=True)]
        if difference(seen, alone) > CLOSE:
            raise Failed(f"a batch of {len(encoded)} and batches of 1 differ by {difference(seen, alone):.1e} nats")
        masked = text_alone(tracer, batch)
        if masked > 1e-3:
            raise Failed(f"masked differs from the text alone at its positions by {masked:.1e}")
        whole = tracer.trace(batch)
    summed = check_alignment(subject, whole, batch)
    return (
        f"identical image 0; batches of {len(encoded)} and 1 to {difference(seen, alone):.0e} nats; masked = text "
        f"alone to {masked:.0e}; {summed}"
    )


def curves(record: Any) -> list[dict[str, Any]]:
    """Every curve in a record, however deep."""
    if isinstance(record, dict):
        own = [record] if isinstance(record.get("mean"), list) else []
        return own + [curve for value in record.values() for curve in curves(value)]
    return [curve for value in record for curve in curves(value)] if isinstance(record, list) else []


def check_record(folder: Path, layers: int) -> str:
    """probe.json has every curve, each with a value, its n and its band; returns the figures."""
    if any(not (folder / f"probe.{kind}").is_file() for kind in ("png", "svg")):
        raise Failed(f"no figure in {folder}")
    record = json.loads((folder / "probe.json").read_text(encoding="utf-8"))
    figures = []
    for item in record["checkpoints"]:
        found = curves({name: item[name] for name in ("information", "alignment", "attention")})
        if len(found) != 1 + 3 + 2 * (2 + layers):
            raise Failed(f"{item['name']}: {len(found)} curves in probe.json, expected {1 + 3 + 2 * (2 + layers)}")
        for curve in found:
            sizes = {len(curve[key]) for key in ("x", "mean", "low", "high", "n")}
            if len(sizes) != 1 or not any(value is not None for value in curve["mean"]) or max(curve["n"]) < 2:
                raise Failed(f"{item['name']}: an empty or ragged curve in probe.json")
        if len(item["neighbours"]["by_depth"]) != layers + 1:
            raise Failed(f"{item['name']}: {len(item['neighbours']['by_depth'])} depths of neighbours")
        figures.append(f"{item['name']} {item['information']['mean']['value']:+.4f}")
    item = record["checkpoints"][0]
    return (
        f"host {item['host']}, adapter {item['adapter']}, {item['samples']['used']} samples, {len(found)} curves, "
        f"nats per token: {', '.join(figures)}"
    )


def main() -> int:
    settings = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    checkpoints = [Path(path) for path in settings["checkpoints"]]
    output, template, base = Path(settings["output"]), settings["template"], settings["base"]
    words = ["probe", *map(str, checkpoints), "--data", settings["data"], "--images", settings["images"]]
    options = {"output": str(output), "template": template, "base": base}
    words += [word for name, value in options.items() if value for word in (f"--{name}", value)]
    try:
        if command(words):
            raise Failed(f"llava-vista {' '.join(words)} did not end well, see above")
        how = LoadOptions(Path(base) if base else None, template, torch.device("cpu"), torch.float32)
        subject = load_checkpoint(checkpoints[1], how)
        samples = load_samples(Path(settings["data"]), Path(settings["images"]), 1000, 0).chosen
        encoded = [subject.encode(sample.turns, open_image(sample.image)) for sample in samples]
        figures = [
            check_record(output, settings["layers"]),
            check_words_and_pictures(subject, encoded, Path(settings["training"])),
            check_prompts(subject, samples, encoded),
            check_information(subject, encoded[:BATCH], [sample.name for sample in samples[:BATCH]]),
        ]
    except Failed as error:
        print(f"{REPORT}FAILED: {error}")
        return 1
    print(f"{REPORT}{'; '.join(figures)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
