"""The page of an autoencoder: figures as they were measured, and a drawing of the training."""

import xml.etree.ElementTree as ET

import sae
from sae import card


def test_curves_take_the_held_out_rows_where_there_are_some():
    train = [{"step": s, "fvu": 9.0, "l0": 3.0, "split": "train"} for s in (0, 1, 2)]
    held_out = [{"step": 0, "fvu": 0.5, "split": "heldout"}, {"step": 2, "fvu": 0.25}]
    held_out[1]["split"] = "heldout"
    drawing = card.curves(train + held_out).decode()
    root = ET.fromstring(drawing)
    lines = root.findall("{http://www.w3.org/2000/svg}polyline")
    assert len(lines) == 1
    left, right = card.EDGE, card.WIDTH - card.EDGE
    bottom = card.HEIGHT - 40
    assert lines[0].get("points") == f"{left:.1f},12.0 {right:.1f},{bottom:.1f}"
    texts = [text.text for text in root.findall("{http://www.w3.org/2000/svg}text")]
    assert texts == ["0.5", "0.25", "fvu"]


def test_no_curve_without_two_points_that_are_numbers():
    assert card.curves([]) is None
    assert card.curves([{"step": 1, "fvu": 0.5}, {"step": 2, "fvu": float("nan")}]) is None
    assert card.curves([{"step": 1, "fvu": 0.5}, {"step": 2, "fvu": 0.5}]) is not None


def test_a_model_remembers_its_evaluation():
    model = sae.ReLU(n_features=4, n_latents=12, seed=0)
    model.metadata = {"evaluation": {"fvu": 0.25, "split": "heldout"}, "hookpoint": "h.3"}
    page = card.card(model, "me/it", None, evaluation={}, run={}, curve=False)
    assert "| FVU, fraction of variance unexplained | 0.25 |" in page
    assert page.count("0.25") == 1
    assert "| hookpoint | h.3 |" in page


def test_text_from_outside_stays_in_its_cell():
    model = sae.ReLU(n_features=4, n_latents=12, seed=0)
    model.metadata["base_model"] = "a|b\n# heading"
    page = card.card(model, "me/it", None, evaluation={}, run={}, curve=False)
    assert "| base_model | a\\|b # heading |" in page
    assert "\n# heading" not in page


def test_the_front_matter_names_a_model_of_the_hub_only():
    assert "base_model: openai/gpt2" in card.front_matter("openai/gpt2")
    assert "base_model" not in card.front_matter("gpt2-small")
    assert "base_model" not in card.front_matter("a/b\nlicense: mit")
