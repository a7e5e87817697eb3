"""The members of a sweep: every combination once, named by what can differ."""

import re

import pytest

import sae


def names(**lists) -> list[str]:
    return [member.name for member in sae.Grid(**lists).members()]


def test_every_combination_is_a_member():
    found = names(n_latents=[8, 16], k=[2, 4], seeds=[0, 1], lrs=[None, 1e-3])
    assert len(found) == len(set(found)) == 16
    assert "topk-16-k4-seed1-lr0.001" in found
    assert "topk-8-k2-seed0" in found


def test_what_an_architecture_does_not_have_is_left_out_for_it():
    lists = {"architectures": ["topk", "relu", "jumprelu"], "n_latents": [8], "k": [2, 4]}
    lists["options"] = {"l1_coefficient": [0.1, 0.2], "aux_coefficient": [0.0]}
    members = {member.name: member for member in sae.Grid(**lists).members()}
    assert set(members) == {
        "topk-8-k2-seed0-aux_coefficient=0.0",
        "topk-8-k4-seed0-aux_coefficient=0.0",
        "relu-8-seed0-l1_coefficient=0.1",
        "relu-8-seed0-l1_coefficient=0.2",
        "jumprelu-8-k2-seed0",
        "jumprelu-8-k4-seed0",
    }
    settings = members["jumprelu-8-k4-seed0"].settings
    assert settings == {"n_latents": 8, "target_l0": 4, "seed": 0}


def test_names_are_safe_for_folders_and_tell_hookpoints_apart():
    found = names(hookpoints=["h.0", "h/1:x"], n_latents=[8], k=[2])
    assert found == ["h.0-topk-8-k2-seed0", "h_1_x-topk-8-k2-seed0"]


@pytest.mark.parametrize(
    ("lists", "sentence"),
    [
        ({"architectures": ["topp"]}, "`architectures` must be among topk, "),
        (
            {"architectures": "topk"},
            "`architectures` must be a list of at least one value; got 'to",
        ),
        ({"k": []}, "`k` must be a list of at least one value; got []."),
        ({"k": [0]}, "`k` must be an int"),
        ({"n_latents": [2.5]}, "`n_latents` must be an int"),
        ({"seeds": [-1]}, "`seeds` must be an int"),
        ({"lrs": [0.0]}, "`lrs` must be a finite number"),
        ({"options": {"bandwidth": [0.1]}}, "`options` must name settings of one of the archit"),
        ({"options": {"seed": [1]}}, "`options` must name settings of one of the architectures"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused(lists, sentence):
    with pytest.raises((ValueError, TypeError), match=re.escape(sentence)):
        sae.Grid(**lists)
