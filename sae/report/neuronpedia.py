"""JSON that Neuronpedia's upload reads, in the form that SAEDashboard writes."""

import json
from pathlib import Path
from typing import Any

from sae.cache import AbstractSource, Cache, JoinedSource
from sae.interpret.pages import LatentPage
from sparsecode import io

PER_BATCH = 128


class NeuronpediaWriter:
    """Writes ``neuronpedia/batch-<n>.json``, 128 latents a file.

    Parameters
    ----------
    root : path
        Folder of the dashboard.
    source : AbstractSource
        Tells the model and the hookpoint.

    References
    ----------
    SAEDashboard, sae_dashboard/neuronpedia/neuronpedia_dashboard.py, whose field names these are
    (described, not copied). Neurons are the coordinates of the hookpoint. Those that correlate with
    a latent are left empty, as are the correlations of latents with each other: they need a matrix
    of all latents with all neurons, or with each other. ``correlated_features_l1`` holds the
    cosines of the nearest decoder rows. Histograms of logits need a language model.
    """

    def __init__(self, root: Path, source: AbstractSource) -> None:
        self.folder = root / "neuronpedia"
        self.folder.mkdir(parents=True)
        known = isinstance(source, (Cache, JoinedSource))
        name = str(source.provenance.get("model", {}).get("name", "")) if known else ""
        hookpoint = source.hookpoint if known else ""
        numbers = [int(part) for part in hookpoint.replace("+", ".").split(".") if part.isdigit()]
        self.about = {
            "model_id": Path(name).name,
            "layer": numbers[0] if numbers else 0,
            "sae_set": hookpoint,
            "sae_id_suffix": None,
        }
        self.features: list[dict[str, Any]] = []
        self.n_batches = 0

    def add(self, page: LatentPage) -> None:
        """Add one latent."""
        self.features.append(feature_of(page))
        if len(self.features) == PER_BATCH:
            self.finish()

    def finish(self) -> None:
        """Write the latents that are not written yet."""
        if self.features:
            path = self.folder / f"batch-{self.n_batches}.json"
            batch = json.dumps({**self.about, "features": self.features}, allow_nan=False)
            io.write_bytes(path, batch.encode())
            self.features = []
            self.n_batches += 1


def feature_of(page: LatentPage) -> dict[str, Any]:
    """Return a latent as one of Neuronpedia's features.

    Parameters
    ----------
    page : LatentPage
    """
    most = page.maximum
    # Examples come in intervals of the activation; those from around a quantile get a narrow one.
    activations = [
        {
            "bin_min": 0.0 if example.group == 0 else round(example.value, 4),
            "bin_max": round(most, 4) if example.group == 0 else round(example.value, 4),
            "bin_contains": -1 if example.group == 0 else round(1 / max(page.count, 1), 6),
            "tokens": example.tokens,
            "values": [round(value, 4) for value in example.values],
            "qualifying_token_index": example.center,
        }
        for example in page.examples
        if example.tokens
    ]
    return {
        "feature_index": page.latent,
        "neuron_alignment_indices": [place for place, _, _ in page.aligned],
        "neuron_alignment_values": [round(value, 4) for _, value, _ in page.aligned],
        "neuron_alignment_l1": [round(share, 4) for _, _, share in page.aligned],
        "correlated_neurons_indices": [],
        "correlated_neurons_l1": [],
        "correlated_neurons_pearson": [],
        "correlated_features_indices": [latent for latent, _ in page.neighbors],
        "correlated_features_l1": [round(value, 4) for _, value in page.neighbors],
        "correlated_features_pearson": [],
        "neg_str": [token for token, _ in page.suppressed],
        "neg_values": [round(value, 4) for _, value in page.suppressed],
        "pos_str": [token for token, _ in page.promoted],
        "pos_values": [round(value, 4) for _, value in page.promoted],
        "frac_nonzero": page.density,
        "freq_hist_data_bar_values": [round(2 ** (edge + 0.125), 5) for edge, _ in page.histogram],
        "freq_hist_data_bar_heights": [count for _, count in page.histogram],
        "logits_hist_data_bar_heights": [count for _, count in page.logit_bars],
        "logits_hist_data_bar_values": [round(center, 4) for center, _ in page.logit_bars],
        "n_prompts_total": 0,
        "n_tokens_in_prompt": max((len(example.tokens) for example in page.examples), default=0),
        "dataset": "",
        "activations": activations,
        "decoder_weights_dist": [],
        "vector": [],
    }
