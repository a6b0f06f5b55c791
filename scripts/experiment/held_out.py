"""What is read on held-out scenes in which no object has its usual colour: the loss on colours, and the alignment."""

from __future__ import annotations

from typing import Any

import torch
from encode import IGNORE, Encoder
from model import make_batch
from prepare import Setup
from settings import SCENES

from llava_vista.attach.observation import Observer, Recorder
from llava_vista.objective.head import last_image_state


def alignment_of(embeds: Any, hidden: Any, layout: Any) -> dict[str, dict[str, float]]:
    """What the published losses are about, on one batch: the loss, and what is left of it without the image's own part.

    margin: mean of I(own text, S) - mean of I(other samples' texts, S). own_first: share of samples whose own text
    scores highest (chance is 1 / samples). constant: the loss if every S were the mean text centroid.

    Args:
        embeds, hidden: (B, L, d). layout: `llava_vista.SequenceLayout`.
    """
    embeds, anchors = embeds.double(), last_image_state(hidden, layout.image).double()
    count = layout.text.sum(dim=1, keepdim=True).double()
    weights = layout.text.cumsum(dim=1) / count / count * layout.text  # (B, L), t / m of each text token, over m
    found = {}
    for method in ("l2", "cosine"):
        x = torch.nn.functional.normalize(embeds, dim=-1) if method == "cosine" else embeds
        bag, weight = torch.einsum("bl,bld->bd", weights, x), weights.sum(dim=1)
        square = torch.einsum("bl,bld->b", weights, x.square())

        def information(
            states: Any, method: str = method, bag: Any = bag, weight: Any = weight, square: Any = square
        ) -> Any:
            """I of every state with every sample's text: (states, texts)."""
            if method == "cosine":
                return torch.nn.functional.normalize(states, dim=-1) @ bag.T
            near = square[None] - 2 * states @ bag.T + states.square().sum(dim=1, keepdim=True) * weight[None]
            return -near / states.shape[-1]

        scores = information(anchors)
        own, size = scores.diagonal(), len(scores)
        centroid = (bag / weight[:, None]).mean(dim=0, keepdim=True)
        found[method] = {
            "loss": -float(own.mean()),
            "margin": float((own - (scores.sum(dim=1) - own) / (size - 1)).mean()),
            "own_first": float((scores.argmax(dim=1) == torch.arange(size, device=own.device)).double().mean()),
            "constant": -float(information(centroid).mean()),
        }
    return found


class HeldOut:
    """Held-out scenes of a set-up; reading them leaves the model's gradients, mode and random state alone."""

    def __init__(self, model: Any, setup: Setup) -> None:
        encoder = Encoder(setup.tokenizer)
        rows = [encoder.v1(record) for record in setup.records["breaking"][:SCENES]]
        self.model, self.batch = model, make_batch(rows, setup.features, model)
        labels = self.batch["labels"][:, 1:]
        self.colors = torch.isin(labels, torch.tensor(encoder.color_ids, device=labels.device)) & (labels != IGNORE)
        recorder = Recorder()
        observer = Observer(model, recorder)
        try:
            states = self._forward().hidden_states
        finally:
            observer.remove()
        seen = recorder.last
        if seen is None or seen.layout is None:
            raise RuntimeError("the held-out batch was not observed.")
        if not (seen.inputs_embeds.equal(states[0]) and seen.last_hidden_state.equal(states[-1])):
            raise RuntimeError("this transformers' hidden_states are not the decoder's input and normed output.")
        self.layout = seen.layout  # one batch, one layout: no observer is needed beside an arm's own

    def _forward(self) -> Any:
        training = self.model.training
        self.model.eval()
        try:
            with torch.no_grad():
                return self.model(**self.batch, output_hidden_states=True)
        finally:
            self.model.train(training)

    def read(self, step: int) -> dict[str, Any]:
        """Return one reading."""
        output, wanted = self._forward(), self.batch["labels"][:, 1:]
        logits = output.logits[:, :-1].float()
        logits = logits[:, -wanted.shape[1] :]  # where the host expands images inside its forward, text is at the end
        nll = torch.nn.functional.cross_entropy(logits[self.colors], wanted[self.colors])
        alignment = alignment_of(output.hidden_states[0], output.hidden_states[-1], self.layout)
        return {"step": step, "color_nll": float(nll), **alignment}
