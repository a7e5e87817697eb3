"""Trainer: any autoencoder, rows of activations, and the loop of `sparsecode.training`."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sae.autoencoders import AUTOENCODERS, AbstractAutoencoder, Losses, ReconstructsProducts
from sae.cache import AbstractSource, Cache, JoinedSource, as_source
from sae.cache.normalization import per_column, row_scale
from sae.evaluation.reconstruction import measure
from sae.files import save
from sae.folding import check_affine, fold_input_scale, fold_input_scale_, is_tied
from sparsecode import io
from sparsecode.metrics import product_variance
from sparsecode.training import AbstractTask, RowSource, RunFolder, StepLosses, TrainConfig, train
from sparsecode.training.checkpoint import EVALUATION, MODEL
from sparsecode.training.config import FREE_ON_RESUME

FINAL_ROWS = 262_144  # held-out rows of the last evaluation, at most
EVALUATION_BATCH = 4096
FOLDED = {"folded": True, "codes": "in the unit of the rows"}
NOT_LOGGED = ("firing_frequency", "frequency_histogram")


@dataclass(frozen=True)
class TrainResult:
    """What `Trainer.fit` returns.

    Parameters
    ----------
    model : AbstractAutoencoder
        The trained model, in evaluation mode.
    history : list of dict
        All rows of metrics, as in ``metrics.jsonl``: ``"split": "train"`` rows are means since
        the row before, ``"split": "heldout"`` rows are evaluations.
    evaluation : dict or None
        `sae.evaluate` on held-out rows at the end; None if no rows were held out.
    out_dir : Path or None
        The folder of the run.
    """

    model: AbstractAutoencoder
    history: list[dict[str, Any]]
    evaluation: dict[str, Any] | None
    out_dir: Path | None


class Trainer:
    """Train an autoencoder on cached activations.

    Adam with a learning rate that rises, stays and falls to zero; decoder rows at unit norm;
    dead latents counted in tokens and given to the auxiliary loss. The loss is divided by the
    variance of the data and biases move on the scale of the data, so the result does not depend
    on the unit of the activations.

    Parameters
    ----------
    model : AbstractAutoencoder
        Trained in place, after `initialize` on the first rows.
    data : cache folder, cache, ``.npy`` file, array or tensor
        Rows of activations; see `sae.cache.as_source`.
    config : TrainConfig or None, default=None
        None takes the defaults.

    Raises
    ------
    TypeError
        If `model` is no autoencoder or `config` no TrainConfig.
    ValueError
        If the width of the data is not that of the model, or there are no rows.

    Examples
    --------
    >>> import sae
    >>> model = sae.TopK(n_features=16, n_latents=64, k=4, seed=0)
    >>> x = torch.randn(2000, 16)
    >>> result = sae.Trainer(model, x, sae.TrainConfig(batch_size=256, n_steps=30)).fit()
    >>> result.evaluation["fvu"] < 0.7
    True
    """

    def __init__(
        self, model: AbstractAutoencoder, data: Any, config: TrainConfig | None = None
    ) -> None:
        config = TrainConfig() if config is None else config
        if not isinstance(model, AbstractAutoencoder):
            raise TypeError(
                f"`model` must be an autoencoder such as sae.TopK; got {type(model).__name__}."
            )
        if not isinstance(config, TrainConfig):
            raise TypeError(f"`config` must be a sae.TrainConfig; got {type(config).__name__}.")
        self.model, self.data, self.config = model, data, config
        sides = Sides.of(data, config.heldout_fraction, model.row_width)
        self.rows, self.heldout = sides.rows, sides.heldout
        self.device = _checked_device(config)
        _check_weights(model, config)
        _check_normalize(model, config)

    def fit(self, resume: bool = False, *, overwrite: bool = False) -> TrainResult:
        """Train, evaluate on held-out rows, and save the model.

        Parameters
        ----------
        resume : bool, default=False
            Go on with the run in ``out_dir`` from its last checkpoint, to the same weights
            and metrics as without the interruption (bit for bit on the CPU, with as many
            threads). Without a checkpoint there, start.
        overwrite : bool, default=False
            Remove the run in ``out_dir`` and start again.

        Returns
        -------
        TrainResult

        Raises
        ------
        FileExistsError
            If ``out_dir`` holds a run and neither `resume` nor `overwrite` is set.
        ValueError
            If rows hold NaN or infinity, or the run in ``out_dir`` was started with another
            model, other data or other settings; the message names them.
        sparsecode.io.CorruptFileError
            If the checkpoint is not what was written.
        FloatingPointError
            If the loss is no longer finite.
        KeyboardInterrupt
            After Ctrl-C; the present step is finished and saved.
        """
        with self.own_folder(resume, overwrite=overwrite) as folder:
            with self.own_task() as task:
                _, metrics = train(task, self.rows, self.config, folder=folder)
            return self.result(task, metrics.history, folder)

    @contextmanager
    def own_folder(
        self, resume: bool = False, *, overwrite: bool = False
    ) -> Iterator[RunFolder | None]:
        """Open the folder of the run, locked inside the block; None without `out_dir`.

        Parameters
        ----------
        resume, overwrite : bool, default=False
            As of `fit`.
        """
        out_dir = self.config.out_dir
        if out_dir is None:
            if resume or overwrite:
                raise ValueError("`out_dir` must be given to resume or overwrite a run; got None.")
            yield None
            return
        with io.only_writer(out_dir):
            folder = RunFolder(
                out_dir,
                self._identity(),
                free=FREE_ON_RESUME,
                resume=resume,
                overwrite=overwrite,
            )
            self._warn_if_not_saved()
            yield folder

    @contextmanager
    def own_task(self) -> Iterator["AutoencoderTask"]:
        """Prepare the model for training inside the block and for use behind it."""
        self.model.to(self.device).train()
        task = AutoencoderTask(self.model, self.config, self.heldout)
        try:
            yield task
        finally:
            task.close()
            self.model.eval()

    def result(
        self, task: "AutoencoderTask", history: list[dict[str, Any]], folder: RunFolder | None
    ) -> TrainResult:
        """Evaluate the trained model and write what is left of the run.

        Parameters
        ----------
        task : AutoencoderTask
        history : list of dict
            All rows of metrics.
        folder : RunFolder or None
        """
        model, evaluation = self.model, None
        if self.heldout is not None:
            evaluation = measure(model, self.heldout, EVALUATION_BATCH, FINAL_ROWS, False)
            evaluation["split"] = "heldout"
        if folder is not None:
            self._write_results(folder.path, evaluation, task.normalization())
        return TrainResult(model, history, evaluation, None if folder is None else folder.path)

    def _identity(self) -> dict[str, dict[str, Any]]:
        """Return what makes a run the same run."""
        architecture = {
            "architecture": type(self.model).__name__,
            "dtype": str(self.model.b_dec.dtype),
        }
        data = {
            "n_rows": self.rows.n_rows,
            "n_features": self.rows.n_features,
            "fingerprint": self.rows.fingerprint,
        }
        if isinstance(self.rows, Cache) or (
            isinstance(self.rows, JoinedSource) and self.rows.is_one_cache
        ):
            data["hookpoint"] = self.rows.hookpoint
        return {
            "train": self.config.to_dict(),
            "model": architecture | self.model.config(),
            "data": data,
        }

    def _warn_if_not_saved(self) -> None:
        if type(self.model) not in AUTOENCODERS.values():
            warnings.warn(
                f"`{MODEL}/` will not be written: {type(self.model).__name__} is not in "
                "sae.AUTOENCODERS. The checkpoint holds its weights.",
                stacklevel=5,
            )

    def _write_results(
        self, path: Path, evaluation: Mapping[str, Any] | None, normalization: Mapping[str, Any]
    ) -> None:
        if type(self.model) in AUTOENCODERS.values():
            summary = {
                name: value for name, value in (evaluation or {}).items() if name not in NOT_LOGGED
            }
            known = {"evaluation": summary, "normalization": dict(normalization)}
            save(self.model, path / MODEL, metadata=known)
        if evaluation is not None:
            io.write_json(path / EVALUATION, evaluation)


class AutoencoderTask(AbstractTask):
    """An autoencoder as the training loop sees it.

    Parameters
    ----------
    model : AbstractAutoencoder
    config : TrainConfig
    heldout : RowSource or None
    """

    def __init__(
        self, model: AbstractAutoencoder, config: TrainConfig, heldout: RowSource | None
    ) -> None:
        _check_normalize(model, config)
        self.module, self.n_latents = model, model.n_latents
        self.constants = {}
        self._model, self._config, self._heldout = model, config, heldout
        self._kept: int | None = None
        self._k = model.config().get("k")
        self._scale: Tensor | None = None

    def start(self, sample: Tensor) -> None:
        """Let the model adapt to a sample of the data, and measure the scale of the data."""
        factors = row_scale(sample, self._config.normalize, self._model.row_blocks)
        self.constants = {} if factors is None else {"row_scale": factors}
        sample = self._scaled(sample)
        self._model.initialize(sample)
        x, target = self._model.input_and_target(sample)
        self.constants["variance"] = _variance(target)
        self.constants["activation_scale"] = (_variance(x) / x.shape[1]) ** 0.5
        if isinstance(self._model, ReconstructsProducts):
            rows = self._model.product_rows(x)
            self.constants["variance"] = product_variance(rows) or 1.0

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the groups of the model; biases live on the scale of the data."""
        found, width = self.constants, self._model.b_dec.shape[0]
        target_scale = None
        if self._model.n_targets is not None:
            target_scale = (found["variance"] / width) ** 0.5
        return self._model.parameter_groups(
            activation_scale=found["activation_scale"], target_scale=target_scale
        )

    def normalization(self) -> dict[str, Any]:
        """Return how rows were scaled in training, for the record in the file of the model."""
        kind, factors = self._config.normalize, self.constants.get("row_scale")
        return {"kind": kind} if factors is None else {"kind": kind, "scale": factors} | FOLDED

    def set_progress(self, progress: float) -> None:
        """Follow the schedules of the model and of k."""
        self._set_k(progress)
        self._model.set_progress(progress)

    def scheduled(self) -> dict[str, float]:
        """Return the number of latents that each row kept, where it is the same for all."""
        return {} if self._kept is None else {"k": self._kept}

    def losses(self, batch: Tensor, dead_latents: Tensor | None) -> StepLosses:
        """Return the losses of the model divided by the variance of the data."""
        x, target = self._model.input_and_target(self._scaled(batch))
        found = self._model.loss_terms(x, target, dead_latents=dead_latents)
        self._kept = None if found.codes.is_ragged else found.codes.values.shape[-1]
        scale = 1.0 / self.constants["variance"]
        terms = {name: term * scale for name, term in found.terms.items()}
        with torch.no_grad():
            error = _mean_error(found, target)
        observed = {f"loss/{name}": term for name, term in terms.items()}
        observed["fvu"] = error * scale
        return StepLosses(torch.stack(list(terms.values())).sum(), observed, found.codes)

    def evaluate(self) -> dict[str, Any] | None:
        """Return the scalar metrics of `sae.evaluate` on some held-out rows."""
        if self._heldout is None:
            return None
        found = measure(
            self.folded(), self._heldout, EVALUATION_BATCH, self._config.eval_rows, False, []
        )
        return {name: value for name, value in found.items() if name not in NOT_LOGGED}

    def folded(self) -> AbstractAutoencoder:
        """Return the model for the rows as they are: itself, or a copy with the scale folded in."""
        factors = self._factors()
        return self._model if factors is None else fold_input_scale(self._model, factors)

    def close(self) -> None:
        """Give the model its own k back, and weights for the rows as they are."""
        if self._config.k_start is not None:
            setattr(self._model, "k", self._k)  # noqa: B010  not every architecture has one
        factors = self._factors()
        if factors is not None:
            fold_input_scale_(self._model, factors)

    def _factors(self) -> Tensor | None:
        """Return what each column of the rows is multiplied by, float64; None for nothing."""
        factors = self.constants.get("row_scale")
        return None if factors is None else per_column(factors, self._model.row_blocks)

    def _scaled(self, rows: Tensor) -> Tensor:
        """Return rows on the scale of the training."""
        if self._scale is None:
            factors = self._factors()
            if factors is None:
                return rows
            self._scale = factors.to(rows.device, rows.dtype)
        return rows * self._scale

    def _set_k(self, progress: float) -> None:
        k_start, share = self._config.k_start, self._config.k_anneal_share
        if k_start is not None and self._k is not None:
            left = max(0.0, 1.0 - progress / share) if share > 0 else 0.0
            k = round(self._k + (k_start - self._k) * left)
            setattr(self._model, "k", k)  # noqa: B010


def _mean_error(found: Losses, target: Tensor) -> Tensor:
    """Return the mean over rows of the squared error."""
    if found.reconstruction is None:
        assert found.error is not None, "`Losses` needs a reconstruction or an error"
        return found.error
    error = torch.linalg.vector_norm(found.reconstruction.to(target.dtype) - target).square()
    return error * (1.0 / len(target))


def _variance(rows: Tensor) -> float:
    """Return the mean squared distance from the mean; for rows that are all equal, the width."""
    centered = rows.double() - rows.double().mean(0)
    variance = float(centered.square().sum(1).mean())
    return variance if variance > 0 else float(rows.shape[1])  # any scale will do


@dataclass(frozen=True)
class Sides:
    """The rows to train on and those to evaluate on, opened once for any number of runs.

    Parameters
    ----------
    rows : AbstractSource
    heldout : AbstractSource or None
    """

    rows: AbstractSource
    heldout: AbstractSource | None

    @classmethod
    def of(cls, data: Any, heldout_fraction: float, n_features: int | None = None) -> "Sides":
        """Split data, or take what is split already.

        Parameters
        ----------
        data : Sides, or what `sae.cache.as_source` takes
        heldout_fraction : float
        n_features : int or None, default=None
            Width that rows must have.
        """
        if isinstance(data, Sides):
            return cls(as_source(data.rows, n_features=n_features), data.heldout)
        cached = isinstance(data, (Cache, JoinedSource))
        if cached and data.split == "train" and data.heldout_fraction > 0:
            heldout = data.with_split("heldout", data.heldout_fraction)
            return cls(as_source(data, n_features=n_features), heldout)
        if heldout_fraction == 0 or (isinstance(data, AbstractSource) and data.split is not None):
            return cls(as_source(data, n_features=n_features), None)
        share: dict[str, Any] = {"heldout_fraction": heldout_fraction, "n_features": n_features}
        rows = as_source(data, split="train", **share)
        return cls(rows, as_source(data, split="heldout", **share))


def choose_device(name: str) -> torch.device:
    """Return the device of a name; "auto" is the first GPU if there is one, else the CPU.

    Parameters
    ----------
    name : str

    Returns
    -------
    torch.device

    Raises
    ------
    ValueError
        If there is no such device, or no GPU here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        raise ValueError(f'`device` must be "auto" or a torch device; got {name!r}.') from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"`device` must be usable; got {name!r}, but torch sees no GPU here.")
    return device


def _checked_device(config: TrainConfig) -> torch.device:
    device = choose_device(config.device)
    if config.precision == "bf16" and device.type != "cuda":
        raise ValueError(
            f'`precision="bf16"` needs a GPU; the device is {device}. Use precision="float32".'
        )
    return device


def _check_weights(model: AbstractAutoencoder, config: TrainConfig) -> None:
    dtype = model.b_dec.dtype
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"`model` must have float32 or float64 weights to be trained; got {str(dtype)[6:]}. "
            'Use model.float(), and precision="bf16" for speed.'
        )
    k = model.config().get("k")
    if config.k_start is not None and (k is None or not k <= config.k_start <= model.n_latents):
        raise ValueError(
            "`k_start` must be an int in [k, n_latents] of a model with a `k`; "
            f"got {config.k_start} with k={k}, n_latents={model.n_latents}."
        )


def _check_normalize(model: AbstractAutoencoder, config: TrainConfig) -> None:
    """Refuse before any work what could not be folded at the end."""
    if config.normalize == "none":
        return
    check_affine(model)
    uniform = config.normalize == "mean_square" and len(model.row_blocks) == 1
    if is_tied(model) and not uniform:
        raise ValueError(
            f'`normalize` must be "none" or "mean_square" for {type(model).__name__}, whose '
            f"weights are tied; got {config.normalize!r}."
        )
