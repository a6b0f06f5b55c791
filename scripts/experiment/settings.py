"""What one run of the study is, and how much of everything it gets."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

BASELINE = "baseline"
#: Held-out scenes of a reading.
SCENES = 64
#: Steps between readings, nats at which a run has looked, and how often in a row it must be so.
EVERY, FLOOR, STAYS = 10, 0.15, 3


@dataclass(frozen=True)
class World:
    """What there is to see and to say.

    objects: told in a caption, of the nine in every scene; with ``filler`` it sets the length of a caption.
    filler: sentences without visual content after each sentence about an object.
    prior: probability that an object has its shape's usual colour, in text-only material and in training pictures.
    """

    objects: int = 8
    filler: int = 0
    prior: float = 0.7

    @property
    def name(self) -> str:
        return f"objects{self.objects}-filler{self.filler}-prior{self.prior:g}"


@dataclass(frozen=True)
class Sizes:
    """How much of everything; the same for every arm. The learning rates were set for cross-entropy alone."""

    hidden: int = 96
    layers: int = 4
    heads: int = 4
    text_steps: int = 800
    text_batch: int = 16
    text_rate: float = 3e-3
    pretrain_steps: int = 320
    finetune_steps: int = 640  #: the cap: with cross-entropy alone the first seeds look within 300
    batch: int = 16
    pretrain_rate: float = 1.6e-2
    finetune_rate: float = 1.4e-3
    scenes: int = 100  #: held out
    image_size: int = 96  #: pixels, of a side
    patch_size: int = 32

    @property
    def name(self) -> str:
        return f"{self.base_name}-steps{self.pretrain_steps}+{self.finetune_steps}-batch{self.batch}"

    @property
    def base_name(self) -> str:
        pictures = f"-image{self.image_size}p{self.patch_size}" * (self.image_size != Sizes.image_size)
        return f"d{self.hidden}x{self.layers}{pictures}-text{self.text_steps}"

    def enlarged(self) -> Sizes:
        """What a GPU is for: width 768 and 16 layers, 97 million parameters; LLaVA-1.5's 336 pixels in 24 x 24 patches.

        Rates go with 1 / width, as muP's do for Adam (arXiv 2203.03466): a starting point that was not searched.
        """
        wider = 8
        return replace(
            self, hidden=wider * self.hidden, layers=4 * self.layers, heads=2 * self.heads, image_size=336,
            patch_size=14, text_rate=self.text_rate / wider, pretrain_rate=self.pretrain_rate / wider,
            finetune_rate=self.finetune_rate / wider,
        )  # fmt: skip


@dataclass(frozen=True)
class Arm:
    """What is done to the loss, in both stages."""

    method: str = BASELINE
    weight: float = 0.0

    @property
    def name(self) -> str:
        return self.method if self.method == BASELINE else f"{self.method}-{self.weight:g}"

    def options(self) -> dict[str, Any]:
        """As `llava_vista.VistaConfig` takes them; none for the baseline."""
        return {} if self.method == BASELINE else asdict(self)


@dataclass(frozen=True)
class Run:
    """One training with its readings."""

    seed: int
    arm: Arm = field(default_factory=Arm)
    world: World = field(default_factory=World)
    sizes: Sizes = field(default_factory=Sizes)

    @property
    def setup_name(self) -> str:
        """What the arms of one seed share: data, language model, tower, untrained projector."""
        return f"{self.world.name}_{self.sizes.name}_seed{self.seed}"


@dataclass(frozen=True)
class Setting:
    """A world and sizes in which arms are compared; ``pipeline`` is where they are trained."""

    title: str
    arms: tuple[str, ...]
    world: World = field(default_factory=World)
    sizes: Sizes = field(default_factory=Sizes)
    pipeline: str = "stages"


ARMS = {
    BASELINE: Arm(),
    **{f"{method}-{weight:g}": Arm(method, weight) for method in ("l2", "cosine") for weight in (0.01, 0.1, 1.0)},
    **{f"infonce-{weight:g}": Arm("infonce", weight) for weight in (0.01, 0.1)},
}
#: For side questions, the published estimators at a weight at which they act and cross-entropy still falls.
PUBLISHED = (BASELINE, "l2-0.1", "cosine-0.1")
SETTINGS = {
    "main": Setting("Captions of 49 tokens, batches of 16", tuple(ARMS)),
    "tokens110": Setting("Captions of 110 tokens instead of 49", PUBLISHED, World(filler=1)),
    "tokens272": Setting("Captions of 272 tokens", PUBLISHED, World(filler=2)),
    "batch32": Setting("Batches of 32 instead of 16", PUBLISHED, sizes=Sizes(batch=32)),
    "llava": Setting(
        "In LLaVA-1.5's own training script (stage 1 is not read)",
        PUBLISHED,
        sizes=Sizes(finetune_steps=400),
        pipeline="llava",
    ),
    "large": Setting("About 100M parameters and 576 image tokens", PUBLISHED, World(filler=2), Sizes().enlarged()),
}
REDUCED = {
    "hidden": 32, "layers": 1, "heads": 2, "text_steps": 4, "text_batch": 4, "pretrain_steps": 5, "batch": 4,
    "scenes": 8, "finetune_steps": 20,
}  # fmt: skip
