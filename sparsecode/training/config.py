"""TrainConfig: everything that a training run depends on beside the model and the data."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sparsecode._checks import check_choice, check_float, check_int, near_matches

DEATHS_PER_RUN = 30  # of a hundredth, a thirtieth, a tenth and a quarter of a short run, the best
LOGGERS = ("tensorboard", "wandb")

# Settings that leave weights and metrics as they are: a resumed run may change them.
FREE_ON_RESUME = frozenset({"out_dir", "save_every", "device", "progress", "loggers"})


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Settings of a training run.

    Each is checked when the configuration is made. The defaults follow the length of the
    run and the data; ``TrainConfig(batch_size=..., n_steps=...)`` is meant to be enough.
    """

    batch_size: int = 2048
    """Rows (tokens) of one optimizer step."""

    n_steps: int = 1000
    """Optimizer steps. The schedules depend on it: a run cannot be resumed with another number."""

    lr: float | None = None
    """Highest learning rate; None takes `sparsecode.training.default_learning_rate`."""

    warmup_share: float = 0.05
    """Share of the steps over which the learning rate rises linearly."""

    decay_share: float = 0.3
    """Share of the steps, the last ones, over which it falls linearly to zero."""

    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of Adam's averages of the gradient and of its square."""

    eps: float = 1e-8
    """Adam's constant against division by zero."""

    max_grad_norm: float | None = None
    """Clip the joint 2-norm of all gradients to this; None does not clip."""

    accumulate: int = 1
    """Parts into which the rows of a step are split to save memory. The result is that of one
    part, up to rounding: loss, gradients and dead latents are those of the whole batch. What an
    architecture selects or counts over a batch (`BatchTopK`, `Matryoshka`, `JumpReLU` with a
    target), it does within each part."""

    seed: int = 0
    """Of the order of the rows and of whatever the model draws in training."""

    data_seed: int | None = None
    """Of the order of the rows alone, where models of several seeds are to see the same batches;
    None takes `seed`."""

    normalize: Literal["none", "mean_square", "per_feature"] = "none"
    """What the rows are multiplied by: "mean_square" makes the mean squared norm the number of
    features, at each hookpoint; "per_feature" makes the variance of each feature 1. The factors
    are measured on the first rows and folded into the weights at the end, so the model is one for
    the rows as they are."""

    k_start: int | None = None
    """For architectures with a `k`: latents kept at the first step, falling linearly to `k`.
    None keeps `k` throughout."""

    k_anneal_share: float = 0.1
    """Share of the steps over which k falls from `k_start`."""

    dead_after_tokens: int | None = None
    """Rows without firing after which a latent counts as dead. None takes a thirtieth of the run,
    at most 10 million: the published constant for long runs, and in short ones late enough for
    rare latents to have had their chance and early enough for the revived ones to be trained."""

    heldout_fraction: float = 0.1
    """Share of the data that is kept for evaluation: whole documents of a cache, runs of rows of
    an array. 0 trains on all rows and evaluates nothing."""

    eval_every: int | None = None
    """Steps between evaluations on held-out rows; None takes a tenth of the run, at least 100."""

    eval_rows: int = 8192
    """Held-out rows of an evaluation during training."""

    log_every: int = 10
    """Steps between rows of metrics; each holds the means since the row before."""

    out_dir: str | Path | None = None
    """Folder of the run: config.json, metrics.jsonl, checkpoint/, model/, evaluation.json. None
    writes nothing."""

    save_every: int | None = None
    """Steps between checkpoints; None takes a tenth of the run, at least 100. A checkpoint is
    written at the end and on Ctrl-C too."""

    optimizer: Literal["auto", "row_adam", "adam", "muon"] = "auto"
    """"row_adam" makes gradient rows from sparse lists where it uses them; "adam" is torch's on
    dense gradients, for comparison; "muon" is torch's Muon on matrices, Adam on the rest.
    "auto" is "row_adam"."""

    precision: Literal["float32", "bf16"] = "float32"
    """"bf16" computes in bfloat16 where that is safe (autocast) with float32 weights; needs a GPU.
    "float32" computes in the dtype of the weights."""

    device: str = "auto"
    """Where to train; "auto" takes the first GPU if there is one, else the CPU."""

    progress: bool | None = None
    """Whether to show a progress bar; None shows one on a terminal."""

    loggers: tuple[str, ...] = ()
    """Further places for metrics: "tensorboard", "wandb"."""

    def __post_init__(self) -> None:
        """Check every field; ints, floats, tuples and paths are stored as such."""
        set_field = lambda name, value: object.__setattr__(self, name, value)  # noqa: E731  frozen
        for name in ("batch_size", "n_steps", "accumulate", "eval_rows", "log_every"):
            set_field(name, check_int(name, getattr(self, name), low=1))
        if self.data_seed is not None:
            set_field("data_seed", check_int("data_seed", self.data_seed, low=0, high=2**63 - 1))
        for name in ("k_start", "dead_after_tokens", "eval_every", "save_every"):
            if getattr(self, name) is not None:
                set_field(name, check_int(name, getattr(self, name), low=1))
        for name in ("lr", "max_grad_norm"):
            if getattr(self, name) is not None:
                set_field(name, check_float(name, getattr(self, name), low=0.0, open_low=True))
        for name in ("warmup_share", "decay_share", "k_anneal_share"):
            set_field(name, check_float(name, getattr(self, name), low=0.0, high=1.0))
        fraction = check_float("heldout_fraction", self.heldout_fraction, low=0.0, high=0.9)
        set_field("heldout_fraction", fraction)
        set_field("seed", check_int("seed", self.seed, low=0, high=2**63 - 1))
        set_field("eps", check_float("eps", self.eps, low=0.0))
        set_field("betas", _checked_betas(self.betas))
        set_field("loggers", _checked_loggers(self.loggers))
        set_field("out_dir", None if self.out_dir is None else Path(self.out_dir))
        check_choice("optimizer", self.optimizer, ("auto", "row_adam", "adam", "muon"))
        check_choice("precision", self.precision, ("float32", "bf16"))
        check_choice("normalize", self.normalize, ("none", "mean_square", "per_feature"))
        if self.accumulate > self.batch_size:
            raise ValueError(
                f"`accumulate` must be an int in [1, batch_size]; got {self.accumulate} "
                f"with batch_size={self.batch_size}."
            )
        if self.warmup_share + self.decay_share > 1.0:
            raise ValueError(
                "`warmup_share` and `decay_share` must add up to at most 1; "
                f"got {self.warmup_share:g} + {self.decay_share:g}."
            )
        if self.loggers and self.out_dir is None:
            raise ValueError(f"`out_dir` must be given for loggers={list(self.loggers)}; got None.")

    def to_dict(self) -> dict[str, Any]:
        """Return the fields ready for JSON."""
        plain = dataclasses.asdict(self)
        plain["out_dir"] = None if self.out_dir is None else str(self.out_dir)
        return {name: list(v) if isinstance(v, tuple) else v for name, v in plain.items()}

    @property
    def order_seed(self) -> int:
        """`data_seed`, or what None stands for."""
        return self.seed if self.data_seed is None else self.data_seed

    @property
    def tokens_to_death(self) -> int:
        """`dead_after_tokens`, or what None stands for."""
        if self.dead_after_tokens is not None:
            return self.dead_after_tokens
        return min(10_000_000, max(1, self.n_steps * self.batch_size // DEATHS_PER_RUN))

    def is_due(self, step: int, every: int | None) -> bool:
        """Whether what happens each `every` steps, and after the last one, happens at `step`."""
        if every is None:
            every = max(100, self.n_steps // 10)
        return step % every == 0 or step == self.n_steps


def _checked_betas(betas: Any) -> tuple[float, float]:
    try:
        pair = tuple(check_float("betas", beta, low=0.0, high=1.0) for beta in betas)
    except TypeError:
        pair = ()
    if len(pair) != 2 or 1.0 in pair:
        raise ValueError(f"`betas` must be two numbers in [0, 1); got {betas!r}.")
    return pair


def _checked_loggers(loggers: Any) -> tuple[str, ...]:
    names = (loggers,) if isinstance(loggers, str) else tuple(loggers)
    for name in names:
        if name not in LOGGERS:
            raise ValueError(
                f"`loggers` must hold only {', '.join(repr(known) for known in LOGGERS)}; "
                f"got {name!r}.{near_matches(str(name), LOGGERS)}"
            )
    return names
