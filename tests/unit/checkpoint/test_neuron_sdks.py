"""The table of SDK releases: what is in it, and that docs/neuron.md has it."""

from __future__ import annotations

import re

import pytest

from mllama_demo.checkpoint import neuron_sdks
from mllama_demo.checkpoint.machine import version_key
from mllama_demo.checkpoint.neuron_sdks import LATER, RELEASES, SDKS, refusal, release_of
from mllama_demo.config.neuron import family_of
from tests.support.paths import ROOT
from tests.support.scripts import script


def test_the_guide_has_the_table_of_the_data_file():
    page = (ROOT / "docs" / "neuron.md").read_text(encoding="utf-8")
    assert script("write_sdk_table").with_table(page) == page, "run `make reference`"


def test_releases_ascend_and_so_do_their_packages():
    assert [version_key(release.sdk) for release in RELEASES] == sorted({version_key(release.sdk) for release in RELEASES})
    for attribute in ("name", "nxdi", "nxd", "compiler", "driver", "torch_neuronx"):
        values = [version_key(getattr(sdk, attribute)) for sdk in SDKS]
        assert values == sorted(values), attribute
    assert version_key(LATER[0][0]) > version_key(RELEASES[-1].sdk)


@pytest.mark.parametrize("sdk", SDKS, ids=lambda sdk: sdk.name)
def test_a_patch_has_the_versions_of_its_release(sdk):
    assert sdk.name.startswith(sdk.release.sdk + ".")
    assert sdk.nxdi.startswith(sdk.release.nxdi + ".")
    assert sdk.nxd.startswith(sdk.release.nxd + ".")


def test_releases_before_2_24_are_refused_and_no_later_one():
    assert [release.sdk for release in RELEASES if release.refused] == ["2.21", "2.22", "2.23"]
    assert neuron_sdks.first_usable().sdk == "2.24"
    assert refusal("0.3.5591")
    assert refusal("0.4.7422") is None
    assert refusal("0.10.1") is None, "0.10 is not 0.1"
    assert refusal("0.99.1") is None
    assert refusal(None) is None


def test_trn2_needs_2_26():
    assert [release.sdk for release in RELEASES if release.refusal("trn2")] == ["2.21", "2.22", "2.23", "2.24", "2.25"]
    found = refusal("0.5.9230", "trn2")
    assert found
    assert found[0].endswith("its code for this model knows logical_nc_config 1 only, and trn2 needs 2")
    assert found[1] == "use SDK 2.26 (NxD Inference 0.6) or later"
    assert refusal("0.5.9230", "trn1") is None
    assert family_of("trn1n.32xlarge") == "trn1"
    assert family_of("inf2.48xlarge") == "inf2"


def test_every_release_says_what_was_run_here_or_why_nothing_was():
    for release in RELEASES:
        assert release.tests or release.untested, release.sdk
        if release.tests:
            assert set(release.tests) == {"date", "transformers", "passed", "failed", "skipped"}
            assert bool(release.refused) == bool(release.tests["failed"]), f"{release.sdk} fails tests and is not refused"


def test_the_newest_release_with_a_version_of_nxdi_is_meant():
    assert [release.sdk for nxdi in ("0.8.16251", "0.10.18399") if (release := release_of(nxdi))] == ["2.28", "2.31"]
    assert release_of("1.0") is None


def test_the_requirement_of_the_engine_is_the_first_release_that_works():
    text = (ROOT / "docs" / "neuron.md").read_text(encoding="utf-8")
    assert f"SDK {neuron_sdks.first_usable().sdk}" in text
    assert re.search(rf"SDK {neuron_sdks.last_on('trn1').sdk}\b", text)
