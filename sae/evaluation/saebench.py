"""SAEBench's view of an autoencoder: dense codes and a configuration."""

from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sae.autoencoders import AbstractAutoencoder
from sae.evaluation.splice import check_spliceable
from sparsecode import SparseCodes


@dataclass
class SAEBenchConfig:
    """The fields that SAEBench reads from ``sae.cfg``; those below ``hook_name`` must be there."""

    model_name: str
    d_in: int
    d_sae: int
    hook_layer: int
    hook_name: str
    dtype: str = "float32"
    device: str = "cpu"
    architecture: str = ""
    context_size: int | None = None
    hook_head_index: int | None = None
    apply_b_dec_to_input: bool | None = None
    finetuning_scaling_factor: bool | None = None
    activation_fn_str: str = ""
    activation_fn_kwargs: dict[str, Any] = field(default_factory=dict)
    prepend_bos: bool = True
    normalize_activations: str = "none"
    model_from_pretrained_kwargs: dict[str, Any] = field(default_factory=dict)
    dataset_path: str = ""
    dataset_trust_remote_code: bool = False
    seqpos_slice: tuple[int | None, ...] = (None,)
    training_tokens: int = -100_000
    sae_lens_training_version: str | None = None
    neuronpedia_id: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, ready for JSON."""
        return asdict(self)


class SAEBenchModel(nn.Module):
    """An autoencoder as SAEBench's evaluations take one.

    It has what ``sae_bench.custom_saes.base_sae.BaseSAE`` (0.6.0) asks for: ``encode`` to a dense
    tensor, ``decode``, ``forward``, ``W_enc`` (d, F), ``W_dec`` (F, d), ``b_enc``, ``b_dec``,
    ``cfg`` (`SAEBenchConfig`), ``device``, ``dtype``, ``to`` and ``check_decoder_norms``. Pass
    ``[(name, SAEBenchModel(...))]`` in the place of a release to its ``run_eval``. ``threshold`` is
    that of a model that has one. Where the model normalizes rows, ``decode`` takes the statistics
    of the rows that were encoded last, as models of this kind do there.

    Parameters
    ----------
    model : AbstractAutoencoder
        With ``W_enc``, ``W_dec`` of unit rows, and a reconstruction of what it encodes. Decoder
        norms are free in some architectures: fold them with `sae.fold_decoder_norms` first.
    model_name : str
        Name of the language model for TransformerLens, such as ``"gpt2"``.
    hook_layer : int
    hook_name : str or None, default=None
        None is ``"blocks.{hook_layer}.hook_resid_post"``.

    Examples
    --------
    >>> import sae
    >>> model = sae.TopK(n_features=8, n_latents=16, k=2, seed=0)
    >>> bench = SAEBenchModel(model, "gpt2", 6)
    >>> bench.encode(torch.ones(1, 3, 8)).shape, bench.cfg.hook_name
    (torch.Size([1, 3, 16]), 'blocks.6.hook_resid_post')
    """

    def __init__(
        self,
        model: AbstractAutoencoder,
        model_name: str,
        hook_layer: int,
        *,
        hook_name: str | None = None,
    ) -> None:
        super().__init__()
        check_spliceable(model, hook_name or "")
        self.model = model.eval()
        self._last: Tensor | None = None
        self.cfg = SAEBenchConfig(
            model_name=model_name,
            d_in=model.n_features,
            d_sae=model.n_latents,
            hook_layer=hook_layer,
            hook_name=hook_name or f"blocks.{hook_layer}.hook_resid_post",
            architecture=type(model).__name__.lower(),
            dtype=str(model.b_dec.dtype).removeprefix("torch."),
            device=str(model.b_dec.device),
        )

    W_enc = property(lambda self: self.model.W_enc)
    W_dec = property(lambda self: self.model.W_dec)
    b_enc = property(lambda self: self.model.b_enc)
    b_dec = property(lambda self: self.model.b_dec)
    threshold = property(lambda self: getattr(self.model, "threshold", None))
    device = property(lambda self: self.model.b_dec.device)
    dtype = property(lambda self: self.model.b_dec.dtype)

    def encode(self, x: Tensor) -> Tensor:
        """Return dense codes, shape (..., F)."""
        x = x.to(self.device, self.dtype)
        self._last = None if self.model.row_norm == "none" else x
        return self.model.encode(x).to_dense()

    def decode(self, feature_acts: Tensor) -> Tensor:
        """Return the reconstruction of dense codes, in which other entries may have been set."""
        acts = feature_acts.to(self.device, self.dtype)
        most = int((acts != 0).sum(-1).max()) if acts.numel() else 0
        values, indices = acts.topk(max(most, 1), dim=-1)
        if bool((acts < 0).any()):
            indices = torch.arange(acts.shape[-1], device=acts.device).expand_as(acts)
            values = acts
        codes = SparseCodes(values, indices, acts.shape[-1])
        if self.model.row_norm == "none":
            return self.model.decode(codes)
        if self._last is None or self._last.shape[:-1] != acts.shape[:-1]:
            got = "none" if self._last is None else str(tuple(self._last.shape[:-1]))
            raise ValueError(
                "`feature_acts` must be those of the rows that were encoded last, which "
                f"{type(self.model).__name__} normalizes; got shape {tuple(acts.shape[:-1])} after "
                f"{got}."
            )
        return self.model.reconstruct(self._last, codes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the reconstruction of `x`."""
        return self.model(x.to(self.device, self.dtype))

    def to(self, *args: Any, **kwargs: Any) -> "SAEBenchModel":
        """Move the model as `torch.nn.Module.to` does; ``cfg`` follows."""
        super().to(*args, **kwargs)
        self.cfg.dtype = str(self.dtype).removeprefix("torch.")
        self.cfg.device = str(self.device)
        return self

    def check_decoder_norms(self) -> bool:
        """Return whether the decoder rows have unit norm, as SAEBench requires."""
        norms = torch.linalg.vector_norm(self.model.W_dec.float(), dim=1)
        tolerance = 1e-2 if self.dtype in (torch.bfloat16, torch.float16) else 1e-5
        return bool(torch.allclose(norms, torch.ones_like(norms), atol=tolerance))
