"""Losses of sparse encoders: what pulls scores into order, and what keeps activations few."""

import torch
from torch import Tensor
from torch.nn import functional

from sparsecode._checks import check_finite, check_float, check_int, check_shape
from sparsecode.codes import SparseCodes
from sparsecode.ops.decode import decode


def flops(activations: Tensor, *, threshold: int | None = None) -> Tensor:
    """Return the FLOPs regularizer ``sum_j (mean_i |a_ij|)^2``, with the l0 mask if asked for.

    It is a smooth stand-in for the mean number of products that a score costs, and evens out how
    often dimensions are used. With a `threshold` only rows with more active entries than that
    enter, the others count as zero in the mean and receive a gradient of exactly zero.

    Parameters
    ----------
    activations : Tensor of shape (N, F) or (N, G, F)
        With G slots (positive, first negative, ...) the means are taken within each slot and the
        slots are summed, as the reference code of the l0 mask does. Rows below each other, as in
        sentence-transformers, give about a G-th of that.
    threshold : int or None, default=None
        Entries that a row may have for nothing.

    Returns
    -------
    Tensor, scalar
        0 for no rows.

    References
    ----------
    Paria et al. (2020), "Minimizing FLOPs to Learn Efficient Sparse Representations".
    arXiv:2004.05665. The mask: Shen et al. (2025), "Exploring l0 Sparsification for Inference-free
    Sparse Retrievers". arXiv:2504.14839.

    Examples
    --------
    >>> a = torch.tensor([[2.0, 0.0], [0.0, 0.0]])
    >>> float(flops(a)), float(flops(a, threshold=1))
    (1.0, 0.0)
    """
    if activations.ndim not in (2, 3):
        raise ValueError(
            "`activations` must have shape (n_rows, n_dimensions) or (n_rows, n_slots, "
            f"n_dimensions); got {tuple(activations.shape)}."
        )
    if not len(activations):
        return activations.sum()
    if threshold is not None:
        threshold = check_int("threshold", threshold, low=0)
        long = (activations != 0).sum(-1, keepdim=True) > threshold
        activations = torch.where(long, activations, 0.0)
    wide = torch.promote_types(activations.dtype, torch.float32)  # sums overflow in float16
    return activations.abs().mean(0, dtype=wide).square().sum()


def l1(activations: Tensor) -> Tensor:
    """Return the mean over rows of the l1 norm, the baseline of `flops`.

    Parameters
    ----------
    activations : Tensor of shape (N, F) or (N, G, F)
        Slots are summed.

    Returns
    -------
    Tensor, scalar

    Examples
    --------
    >>> float(l1(torch.tensor([[2.0, -1.0], [0.0, 0.0]])))
    1.5
    """
    if not len(activations):
        return activations.sum()
    wide = torch.promote_types(activations.dtype, torch.float32)
    return activations.abs().sum(dtype=wide) / len(activations)


def info_nce(scores: Tensor, positives: Tensor | None = None) -> Tensor:
    """Return the cross-entropy of the right documents among all of a batch.

    Parameters
    ----------
    scores : Tensor of shape (N, M)
        Of N queries and M documents, already divided by a temperature.
    positives : Tensor of shape (N,), int64, or None, default=None
        The column of the right document; None takes the diagonal, so that further columns hold hard
        negatives.

    Returns
    -------
    Tensor, scalar

    References
    ----------
    van den Oord et al. (2018), "Representation Learning with Contrastive Predictive Coding",
    eq. (4). arXiv:1807.03748.

    Examples
    --------
    >>> round(float(info_nce(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))), 4)
    0.3133
    """
    if scores.ndim != 2 or (positives is None and scores.shape[1] < scores.shape[0]):
        raise ValueError(
            "`scores` must have shape (n_queries, n_documents) with a document for each query; "
            f"got {tuple(scores.shape)}."
        )
    if not len(scores):
        return scores.sum()
    if positives is None:
        positives = torch.arange(len(scores), device=scores.device)
    return functional.cross_entropy(scores, positives)


def contrastive(
    rows: Tensor | SparseCodes,
    labels: Tensor | None = None,
    *,
    temperature: float = 0.2,
    views: int = 1,
) -> Tensor:
    """Return the contrastive loss of CSR within a batch, without or with labels.

    ``mean_i -log(P_i / (P_i + N_i))`` with ``s_ij`` the cosine over the temperature, ``P_i`` the
    sum of ``exp(s_ij)`` over the rows j of the label of i, itself among them, and ``N_i`` that of
    the others. Without labels every row has its own: the loss pushes all others away.

    Parameters
    ----------
    rows : Tensor of shape (N, F), or SparseCodes
        A row of zeros has cosine 0 to all rows.
    labels : Tensor of shape (N,) or None, default=None
    temperature : float > 0, default=0.2
    views : int, default=1
        Times that each row is in the batch, without being compared with itself where there are
        several. 1 is the paper's equation; the released code has 2, which counts all rows but the
        own one twice.

    Returns
    -------
    Tensor, scalar
        0 for no rows.

    References
    ----------
    Wen et al. (2025), "Beyond Matryoshka: Revisiting Sparse Coding for Adaptive Representation",
    eq. (6). arXiv:2503.01776. Labels: Guo et al. (2026), "CSRv2". arXiv:2602.05735.

    Examples
    --------
    >>> round(float(contrastive(torch.eye(2), temperature=1.0)), 4)
    0.3133
    >>> float(contrastive(torch.eye(2), torch.tensor([7, 7])))
    0.0
    """
    cosines = _cosines(rows, rows)
    temperature = check_float("temperature", temperature, low=0.0, open_low=True)
    views = check_int("views", views, low=1)
    n_rows = len(cosines)
    if not n_rows:
        return cosines.sum()
    own = torch.eye(n_rows, dtype=torch.bool, device=cosines.device)
    same = own
    if labels is not None:
        check_shape("labels", labels, (n_rows,), ("n_rows",))
        same = labels.unsqueeze(1) == labels
    # With several views of a row, its own cosine is met once less than those of the others.
    counts = torch.where(own, max(1, views - 1), views).to(cosines.dtype)
    logits = cosines / temperature + counts.log()
    positive = logits.masked_fill(~same, -torch.inf).logsumexp(1)
    return (logits.logsumexp(1) - positive).mean()


def paired_contrastive(
    queries: Tensor | SparseCodes, documents: Tensor | SparseCodes, *, temperature: float = 0.2
) -> Tensor:
    """Return the cross-entropy of each query's own document among those of the batch.

    `info_nce` of cosines over a temperature, in this one direction.

    Parameters
    ----------
    queries : Tensor of shape (N, F), or SparseCodes
    documents : Tensor of shape (M, F), or SparseCodes
        The first N are those of the queries.
    temperature : float > 0, default=0.2

    Returns
    -------
    Tensor, scalar

    References
    ----------
    Wen et al. (2025), arXiv:2503.01776, in its released code for retrieval.
    """
    temperature = check_float("temperature", temperature, low=0.0, open_low=True)
    return info_nce(_cosines(queries, documents) / temperature)


def triplet(positive: Tensor, negative: Tensor, *, margin: float = 0.1) -> Tensor:
    """Return the mean of ``max(0, margin - positive + negative)`` over scores.

    Parameters
    ----------
    positive : Tensor of shape (N,)
        Scores of the right documents.
    negative : Tensor of shape (N,) or (N, M)
        Scores of wrong ones.
    margin : float, default=0.1

    Returns
    -------
    Tensor, scalar

    Examples
    --------
    >>> float(triplet(torch.tensor([1.0]), torch.tensor([[0.5, 1.5]]), margin=0.5))
    0.5
    """
    if positive.ndim != 1 or negative.ndim not in (1, 2) or len(negative) != len(positive):
        raise ValueError(
            "`positive` and `negative` must have shapes (n_queries,) and (n_queries,) or "
            f"(n_queries, n_negatives); got {tuple(positive.shape)} and {tuple(negative.shape)}."
        )
    if not negative.numel():
        return positive.sum() * 0.0 + negative.sum()
    if negative.ndim == 2:
        positive = positive.unsqueeze(-1)
    return (margin - positive + negative).relu().mean()


def semi_hard_triplet(rows: Tensor, labels: Tensor, *, margin: float = 0.1) -> Tensor:
    """Return the triplet loss on squared distances with the semi-hard negative of each pair.

    For each pair of rows with the same label: the nearest row of another label that is farther away
    than the pair is wide, or the farthest row of another label where there is none.

    Parameters
    ----------
    rows : Tensor of shape (N, F)
        Of unit length in the papers.
    labels : Tensor of shape (N,)
    margin : float, default=0.1

    Returns
    -------
    Tensor, scalar
        0 where there are no two rows of a label, or no row of another one.

    References
    ----------
    Schroff et al. (2015), "FaceNet", section 3.2. arXiv:1503.03832. As used by Paria et al. (2020).

    Examples
    --------
    >>> rows = torch.tensor([[0.0], [1.0], [2.0]])
    >>> float(semi_hard_triplet(rows, torch.tensor([0, 0, 1]), margin=1.0))
    0.5
    """
    check_shape("labels", labels, (len(rows),), ("n_rows",))
    squares = rows.square().sum(1)
    products = rows @ rows.t()
    distances = (squares.unsqueeze(1) + squares - 2 * products).clamp(min=0)
    same = labels.unsqueeze(1) == labels
    pairs = same & ~torch.eye(len(rows), dtype=torch.bool, device=rows.device)
    pairs = pairs & (~same).any(1, keepdim=True)
    if not bool(pairs.any()):
        return rows.sum() * 0.0
    # Of the distances to rows of other labels, in ascending order, the first beyond the pair's.
    others = distances.masked_fill(same, torch.inf).sort(1).values
    place = torch.searchsorted(others.detach(), distances.detach(), right=True)
    last = (~same).sum(1, keepdim=True) - 1
    negative = others.gather(1, torch.minimum(place, last.clamp(min=0)))
    return (margin + distances - negative)[pairs].relu().mean()


def angular_margin(
    rows: Tensor, centers: Tensor, labels: Tensor, *, scale: float = 64.0, margin: float = 0.5
) -> Tensor:
    """Return the cross-entropy of classes on cosines, with a margin on the right angle (ArcFace).

    Parameters
    ----------
    rows : Tensor of shape (N, F)
    centers : Tensor of shape (C, F)
        One direction for each class.
    labels : Tensor of shape (N,), int64
    scale : float, default=64.0
    margin : float, default=0.5
        In radians, added to the angle to the own center.

    Returns
    -------
    Tensor, scalar

    References
    ----------
    Deng et al. (2019), "ArcFace", eq. (3). arXiv:1801.07698. As used by Paria et al. (2020).
    """
    cosines = functional.normalize(rows, dim=1) @ functional.normalize(centers, dim=1).t()
    own = cosines.gather(1, labels.unsqueeze(1)).clamp(-1 + 1e-7, 1 - 1e-7)
    # Past pi - margin the cosine would rise again; there the loss goes on falling along a line.
    limit = torch.cos(torch.tensor(torch.pi - margin))
    slope = torch.sin(torch.tensor(margin)) * margin
    moved = torch.where(own > limit, torch.cos(torch.acos(own) + margin), own - slope)
    return functional.cross_entropy(scale * cosines.scatter(1, labels.unsqueeze(1), moved), labels)


def margin_mse(scores: Tensor, teacher: Tensor) -> Tensor:
    """Return the squared error of the margins between the first document and each other one.

    Parameters
    ----------
    scores : Tensor of shape (N, 1 + M)
        Of the positive document and M others.
    teacher : Tensor of shape (N, 1 + M)

    Returns
    -------
    Tensor, scalar

    References
    ----------
    Hofstatter et al. (2020), "Improving Efficient Neural Ranking Models with Cross-Architecture
    Knowledge Distillation". arXiv:2010.02666.

    Examples
    --------
    >>> float(margin_mse(torch.tensor([[3.0, 1.0]]), torch.tensor([[9.0, 8.0]])))
    1.0
    """
    _check_scores(scores, teacher)
    margins = scores[:, :1] - scores[:, 1:]
    if not margins.numel():
        return margins.sum()
    return functional.mse_loss(margins, (teacher[:, :1] - teacher[:, 1:]).to(margins.dtype))


def kl_divergence(scores: Tensor, teacher: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Return ``KL(softmax teacher || softmax scores)``, the mean over queries.

    Parameters
    ----------
    scores : Tensor of shape (N, M)
    teacher : Tensor of shape (N, M)
    temperature : float > 0, default=1.0
        Divides both; the result is multiplied by its square, so that gradients keep their size.

    Returns
    -------
    Tensor, scalar

    Examples
    --------
    >>> float(kl_divergence(torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0, 2.0]])))
    0.0
    """
    _check_scores(scores, teacher)
    temperature = check_float("temperature", temperature, low=0.0, open_low=True)
    if not scores.numel():
        return scores.sum()
    student = (scores / temperature).log_softmax(-1)
    target = (teacher.to(scores.dtype) / temperature).log_softmax(-1)
    divergence = functional.kl_div(student, target, reduction="batchmean", log_target=True)
    return divergence * temperature**2


def ensemble(scores: list[Tensor], *, scale: float = 30.0) -> Tensor:
    """Return the scores of an ensemble teacher: the mean of scores stretched to [0, scale].

    Parameters
    ----------
    scores : list of Tensor of shape (N, M)
        Of each teacher, on its own scale.
    scale : float, default=30.0
        30 in fine-tuning and 10 in pre-training in the paper.

    Returns
    -------
    Tensor of shape (N, M)
        Scores of a teacher that are all equal for a query count as 0.

    References
    ----------
    Geng et al. (2024), "Towards Competitive Search Relevance For Inference-Free Learned Sparse
    Retrievers". arXiv:2411.04403.

    Examples
    --------
    >>> ensemble([torch.tensor([[1.0, 3.0]]), torch.tensor([[9.0, 5.0]])], scale=10.0)
    tensor([[5., 5.]])
    """
    if not scores:
        raise ValueError("`scores` must hold those of at least one teacher; got none.")
    total = torch.zeros_like(scores[0])
    for one in scores:
        if one.shape != total.shape or one.ndim != 2:
            raise ValueError(
                "`scores` must all have the same shape (n_queries, n_documents); got "
                f"{tuple(total.shape)} and {tuple(one.shape)}."
            )
        check_finite("scores", one)
        low, high = one.amin(-1, keepdim=True), one.amax(-1, keepdim=True)
        width = torch.where(high > low, high - low, 1.0)
        total = total + (one - low) / width
    return total * (scale / len(scores))


def _cosines(first: Tensor | SparseCodes, second: Tensor | SparseCodes) -> Tensor:
    """Return all cosines; with codes on the left, at the cost of their entries."""
    right = second.to_dense() if isinstance(second, SparseCodes) else second
    columns = functional.normalize(right, dim=1).t()
    if isinstance(first, SparseCodes):
        values = functional.normalize(first.values, dim=-1)
        return decode(
            SparseCodes._trusted(values, first.indices, first.width), columns.contiguous()
        )
    return functional.normalize(first, dim=1) @ columns


def _check_scores(scores: Tensor, teacher: Tensor) -> None:
    if scores.ndim != 2:
        raise ValueError(
            f"`scores` must have shape (n_queries, n_documents); got {tuple(scores.shape)}."
        )
    check_shape("teacher", teacher, tuple(scores.shape), ("n_queries", "n_documents"))
