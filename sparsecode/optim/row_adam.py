"""Adam that makes the rows of sparse gradients where it uses them."""

from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor

from sparsecode._checks import check_choice, check_float
from sparsecode._impl import IMPLS, Impl, choose_impl
from sparsecode.ops._row_gradient import RowGradient
from sparsecode.ops.rows import reference

AVERAGES = ("exp_avg", "exp_avg_sq", "shadow")  # state that holds one entry for each weight
BLOCK_ENTRIES = 3 << 17  # of one (rows, D) block: four such blocks stay in a second-level cache


class RowAdam(torch.optim.Optimizer):
    """Adam for dictionaries: gradient rows, projection, update and unit norm in one pass.

    For every parameter whose group names the axis of its latents, a block of rows at a time:
    the gradient rows are summed from sparse lists (in a fixed order, never a dense (F, D)
    gradient), their component along a unit-norm row is removed, Adam's step is taken, and the row
    is scaled back to unit norm. Equals dense gradients with `torch.optim.Adam` up to rounding.

    Parameters
    ----------
    params : iterable of Tensor or of dict
        Groups may hold, beside ``lr``, ``betas`` and ``eps``: ``latent_dim`` (0 or 1, the axis
        of the latents of 2-D parameters; None for any other parameter) and ``unit_norm`` (bool:
        keep rows at unit norm and project their gradient).
    lr : float, default=1e-3
    betas : pair of float, default=(0.9, 0.999)
    eps : float, default=1e-8
    rule : {"adam", "signum"}, default="adam"
        "signum" moves every weight by `lr` against the sign of the averaged gradient: no second
        moment, a third less memory.
    state_dtype : torch.dtype or None, default=None
        Of the averages; None means that of the parameter. In bfloat16 they are rounded up or
        down at random (reproducibly), since small changes would be lost otherwise.
    touched_only : bool, default=False
        Leave rows without any entry in this step's sparse lists as they are, their averages too
        (as `torch.optim.SparseAdam` does). Faster where most latents are silent; not Adam.
    shadow_dtype : torch.dtype or None, default=None
        Keep a copy of the rows in this dtype as ``state[parameter]["shadow"]``.
    impl : {"auto", "reference", "cpu", "triton"}, default="auto"
        Of the step on rows.

    Notes
    -----
    While the optimizer exists, ``.grad`` of such a parameter stays None when all its gradients
    come from sparse operations on the CPU; `release` ends that. Dense gradients are used too.

    References
    ----------
    Kingma & Ba (2015), "Adam", algorithm 1. arXiv:1412.6980. Projection and renormalization:
    Bricken et al. (2023), "Towards Monosemanticity", appendix.
    Signum: Bernstein et al. (2018), "signSGD", algorithm 2. arXiv:1802.04434.

    Examples
    --------
    >>> W = torch.nn.Parameter(torch.eye(3))
    >>> optimizer = RowAdam([{"params": [W], "latent_dim": 0, "unit_norm": True}], lr=0.1)
    >>> W.square().sum().backward()
    >>> optimizer.step()
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        *,
        rule: Literal["adam", "signum"] = "adam",
        state_dtype: torch.dtype | None = None,
        touched_only: bool = False,
        shadow_dtype: torch.dtype | None = None,
        impl: Impl = "auto",
    ) -> None:
        check_float("lr", lr, low=0.0)
        check_float("eps", eps, low=0.0)
        for beta in betas:
            check_float("betas", beta, low=0.0, high=1.0)
        self.rule = check_choice("rule", rule, ("adam", "signum"))
        self.impl = check_choice("impl", impl, IMPLS)
        self.state_dtype, self.shadow_dtype = state_dtype, shadow_dtype
        self.touched_only = bool(touched_only)
        defaults = {"lr": lr, "betas": betas, "eps": eps, "latent_dim": None, "unit_norm": False}
        super().__init__(params, defaults)
        for group in self.param_groups:
            for parameter in group["params"]:
                if group["latent_dim"] is not None:
                    parameter.row_gradient = RowGradient(parameter.shape[group["latent_dim"]])

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step; parameters without any gradient stay as they are."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if group["latent_dim"] is None:
                    self._step_plain(parameter, group)
                else:
                    self._step_rows(parameter, group)
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a saved state; averages and shadows keep their own dtypes."""
        super().load_state_dict(state_dict)
        dtypes = {"exp_avg": self.state_dtype, "exp_avg_sq": self.state_dtype}
        dtypes["shadow"] = self.shadow_dtype
        for state in self.state.values():
            for name, dtype in dtypes.items():
                if name in state and dtype is not None:
                    state[name] = state[name].to(dtype)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget dense and sparse gradients."""
        super().zero_grad(set_to_none)
        for collector in self._collectors():
            collector.clear()

    @torch.no_grad()
    def clip_grad_norm_(self, max_norm: float) -> Tensor:
        """Scale all gradients so that their joint 2-norm is at most `max_norm`; return the norm.

        As `torch.nn.utils.clip_grad_norm_`, but it sees sparse gradients too. The lists are
        summed once more for it, a block of rows at a time.
        """
        squares = []
        for group in self.param_groups:
            for parameter in group["params"]:
                squares += self._squared_norms(parameter, group["latent_dim"])
        norm = torch.stack(squares).sum().sqrt().float() if squares else torch.tensor(0.0)
        factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.grad.mul_(factor)
        for collector in self._collectors():
            collector.scale_(factor)
        return norm

    def release(self) -> None:
        """Stop collecting sparse gradients: autograd fills ``.grad`` again."""
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.__dict__.pop("row_gradient", None)

    def _collectors(self) -> list[RowGradient]:
        everything = [p for group in self.param_groups for p in group["params"]]
        return [p.__dict__["row_gradient"] for p in everything if "row_gradient" in p.__dict__]

    def _squared_norms(self, parameter: Tensor, latent_dim: int | None) -> list[Tensor]:
        if latent_dim is None:
            return [] if parameter.grad is None else [parameter.grad.double().square().sum()]
        n_rows = parameter.shape[latent_dim]
        blocks = (
            _gradient_rows(parameter, latent_dim, *span) for span in _spans(parameter, n_rows)
        )
        return [block.double().square().sum() for block in blocks if block is not None]

    def _state_of(self, parameter: Tensor, rows: Tensor) -> dict[str, Any]:
        state = self.state[parameter]
        if not state:
            dtype = self.state_dtype or parameter.dtype
            state["step"] = torch.zeros((), dtype=torch.float32)
            for name in ("exp_avg", "exp_avg_sq")[: 2 if self.rule == "adam" else 1]:
                state[name] = torch.zeros(rows.shape, dtype=dtype, device=parameter.device)
            if self.shadow_dtype is not None:
                state["shadow"] = rows.detach().to(self.shadow_dtype, copy=True).contiguous()
        return state

    def _step_plain(self, parameter: Tensor, group: dict[str, Any]) -> None:
        if parameter.grad is None:
            return
        state = self._state_of(parameter, parameter)
        state["step"] += 1
        if self._is_plain_adam:
            moments = (state["exp_avg"], state["exp_avg_sq"])
            _adam(parameter, parameter.grad, *moments, state["step"], group)
        else:
            row, gradient = (t.reshape(1, -1) for t in (parameter.detach(), parameter.grad))
            flat = {name: state[name].reshape(1, -1) for name in AVERAGES if name in state}
            reference.update(row, gradient, flat, self._settings(state, group))
            if not parameter.is_contiguous():
                parameter.copy_(row.view_as(parameter))

    def _step_rows(self, parameter: Tensor, group: dict[str, Any]) -> None:
        rows_FD = _rows_view(parameter.detach(), group["latent_dim"])
        collector = parameter.__dict__.get("row_gradient")
        if parameter.grad is None and (collector is None or collector.is_empty):
            return
        state = self._state_of(parameter, rows_FD)
        state["step"] += 1
        chosen = choose_impl(
            type(self).__name__,
            self.impl,
            (rows_FD,),
            cpu=lambda: None if self._is_plain_adam else "settings other than the default ones",
            triton=lambda: _kernels().supports(rows_FD),
        )
        if chosen == "triton":
            dense = parameter.grad
            dense = None if dense is None else _rows_view(dense, group["latent_dim"])
            _kernels().update(
                rows_FD, collector, dense, state,
                self._settings(state, group), touched_only=self.touched_only,
            )  # fmt: skip
        elif chosen == "reference" and not (self._is_plain_adam and self.impl == "auto"):
            self._step_by_definition(parameter, rows_FD, state, group)
        else:
            self._step_in_blocks(parameter, rows_FD, state, group)

    @property
    def _is_plain_adam(self) -> bool:
        options = (self.state_dtype, self.shadow_dtype)
        return self.rule == "adam" and options == (None, None) and not self.touched_only

    def _settings(self, state: dict[str, Any], group: dict[str, Any]) -> reference.Step:
        return reference.Step(
            lr=float(group["lr"]),
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            eps=group["eps"],
            count=int(state["step"]),
            unit_norm=group["unit_norm"],
            rule=self.rule,
        )

    def _step_by_definition(
        self, parameter: Tensor, rows_FD: Tensor, state: dict[str, Any], group: dict[str, Any]
    ) -> None:
        collector = parameter.__dict__.get("row_gradient")
        for start, stop in _spans(parameter, rows_FD.shape[0]):
            gradient = _gradient_rows(parameter, group["latent_dim"], start, stop)
            assert gradient is not None, "there is one"
            touched = None
            if self.touched_only and collector is not None and parameter.grad is None:
                touched = collector.touched(start, stop)
            block = {name: state[name][start:stop] for name in AVERAGES if name in state}
            settings = self._settings(state, group)
            reference.update(
                rows_FD[start:stop], gradient, block, settings, first_row=start, touched=touched
            )

    def _step_in_blocks(
        self, parameter: Tensor, rows_FD: Tensor, state: dict[str, Any], group: dict[str, Any]
    ) -> None:
        for start, stop in _spans(parameter, rows_FD.shape[0]):
            gradient = _gradient_rows(parameter, group["latent_dim"], start, stop)
            assert gradient is not None, "there is one"
            rows = rows_FD[start:stop]
            if group["unit_norm"]:
                gradient.addcmul_(
                    torch.linalg.vecdot(gradient, rows).unsqueeze(1), rows, value=-1.0
                )
            moments = (state["exp_avg"][start:stop], state["exp_avg_sq"][start:stop])
            _adam(rows, gradient, *moments, state["step"], group)
            if group["unit_norm"]:
                rows.div_(torch.linalg.vector_norm(rows, dim=1, keepdim=True).clamp_(min=1e-30))


def _rows_view(matrix: Tensor, latent_dim: int) -> Tensor:
    return matrix if latent_dim == 0 else matrix.t()


def _gradient_rows(parameter: Tensor, latent_dim: int, start: int, stop: int) -> Tensor | None:
    """Return a new tensor with rows ``start:stop`` of all gradients of `parameter`."""
    collector = parameter.__dict__.get("row_gradient")
    total = None if collector is None else collector.sums(start, stop)
    if parameter.grad is not None:
        dense = _rows_view(parameter.grad, latent_dim)[start:stop]
        total = dense.clone() if total is None else total.add_(dense)
    return total


def _spans(parameter: Tensor, n_rows: int) -> list[tuple[int, int]]:
    block = n_rows
    if parameter.device.type == "cpu" and n_rows:
        block = max(1, BLOCK_ENTRIES // max(1, parameter.numel() // n_rows))
    return [(start, min(start + block, n_rows)) for start in range(0, n_rows, max(1, block))]


def _adam(
    weight: Tensor,
    gradient: Tensor,
    mean: Tensor,
    square: Tensor,
    step: Tensor,
    group: dict[str, Any],
) -> None:
    """Take Adam's step in place; the fused kernel reads raw memory, so all must be contiguous."""
    target = weight if weight.is_contiguous() else weight.contiguous()
    beta1, beta2 = group["betas"]
    step = step.to(weight.device)
    torch._fused_adam_(
        [target],
        [gradient.contiguous()],
        [mean],
        [square],
        [],
        [step],
        lr=float(group["lr"]),
        beta1=beta1,
        beta2=beta2,
        weight_decay=0.0,
        eps=group["eps"],
        amsgrad=False,
        maximize=False,
    )
    if target is not weight:
        weight.copy_(target)


def _kernels() -> ModuleType:
    from sparsecode.ops.rows import triton

    return triton
