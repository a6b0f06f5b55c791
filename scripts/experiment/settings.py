"""What one run of the study is, and how much of everything it gets. A run's name is where its result lies."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

PATHS = ("fast", "llava")
#: Where the headline is run: on both paths, and with a larger model on the fast one.
TITLES = {"fast": "fast path", "llava": "real LLaVA-1.5 pipeline", "large": "larger model"}
STAGES = ("pretrain", "finetune", "both")
#: The arms of the headline: no VISTA, and its estimators.
METHODS = ("l2", "cosine", "infonce")
BASELINE = "baseline"
#: Seeds from here on are for choosing weights, on validation scenes; those below are for reporting, on test scenes.
CHOICE_SEED = 100


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
    """How much of everything; the same for every arm.

    Steps and learning rates were set for cross-entropy alone, on two seeds of the choice, so that its loss has stopped
    falling there when training ends: arms are to be compared by where they arrive, not by when they begin to look.
    """

    hidden: int = 96
    layers: int = 4
    heads: int = 4
    text_steps: int = 800
    text_batch: int = 16
    text_rate: float = 3e-3
    pretrain_steps: int = 320
    finetune_steps: int = 360
    batch: int = 16
    pretrain_rate: float = 1.6e-2
    finetune_rate: float = 1.4e-3
    scenes: int = 200  #: of each kind of held-out scene, for choosing and again for reporting
    image_size: int = 96  #: pixels, of a side
    patch_size: int = 32

    @property
    def name(self) -> str:
        return f"{self.base_name}-steps{self.pretrain_steps}+{self.finetune_steps}-batch{self.batch}"

    @property
    def base_name(self) -> str:
        pictures = f"-image{self.image_size}p{self.patch_size}" * (self.image_size != Sizes.image_size)
        return f"d{self.hidden}x{self.layers}{pictures}-text{self.text_steps}"

    @property
    def patches(self) -> int:
        return (self.image_size // self.patch_size) ** 2

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
    """What is done to the loss. ``stage`` is where the term acts; elsewhere training is the baseline's."""

    method: str = BASELINE
    weight: float = 0.0
    position_weighting: str = "linear"
    text_scope: str = "all"
    detach_text: bool = False
    stage: str = "both"

    @property
    def name(self) -> str:
        if self.method == BASELINE:
            return BASELINE
        extra = [self.position_weighting] * (self.position_weighting != "linear")
        extra += [self.text_scope] * (self.text_scope != "all") + ["detached"] * self.detach_text
        extra += [self.stage] * (self.stage != "both")
        return "-".join([self.method, f"{self.weight:g}", *extra])

    def options(self) -> dict[str, Any]:
        """As `llava_vista.VistaConfig` takes them."""
        return {key: value for key, value in asdict(self).items() if key != "stage"}

    def acts_in(self, stage: str) -> bool:
        return self.method != BASELINE and self.stage in (stage, "both")


@dataclass(frozen=True)
class Run:
    """One training and its measurement."""

    seed: int
    arm: Arm = field(default_factory=Arm)
    world: World = field(default_factory=World)
    sizes: Sizes = field(default_factory=Sizes)
    path: str = "fast"

    @property
    def split(self) -> str:
        return "validation" if self.seed >= CHOICE_SEED else "test"

    @property
    def setup_name(self) -> str:
        """What the arms of one seed share: data, language model, tower, untrained projector."""
        return f"{self.world.name}_{self.sizes.name}_seed{self.seed}"

    @property
    def name(self) -> str:
        """Path of the result, relative to the results' folder, without its ending."""
        return f"{self.path}/{self.world.name}_{self.sizes.name}/{self.arm.name}_seed{self.seed}"

    def record(self) -> dict[str, Any]:
        return asdict(self)


def read_run(record: dict[str, Any]) -> Run:
    """The opposite of `Run.record`."""
    return Run(record["seed"], Arm(**record["arm"]), World(**record["world"]), Sizes(**record["sizes"]), record["path"])
