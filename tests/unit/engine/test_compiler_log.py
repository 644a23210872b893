"""How far a compilation is, from the lines that NxD logs."""

from __future__ import annotations

import itertools
import logging

import pytest

from mllama_demo.engine.neuron.compiler_log import CompileLog, CompileProgress, loading_stage, report_loading

# As NxD 0.18 and NxDI 0.9 write them for four graphs on 32 cores; the figures are made up.
RECORDED = """\
Saving the neuron_config to /artifacts/5ad1/
Generating HLOs for the following models: ['context_encoding_model', 'token_generation_model']
Generating 2 hlos for key: context_encoding_model
No metadata will be added to HLO
Started loading module context_encoding_model
Finished loading module context_encoding_model in 41.17 seconds
generating HLO: context_encoding_model, input example shape = torch.Size([1, 1024])
Finished generating HLO for context_encoding_model in 63.9 seconds, input example shape = torch.Size([1, 1024])
generating HLO: context_encoding_model, input example shape = torch.Size([1, 2048])
Finished generating HLO for context_encoding_model in 61.2 seconds, input example shape = torch.Size([1, 2048])
Generating 2 hlos for key: token_generation_model
No metadata will be added to HLO
Started loading module token_generation_model
Finished loading module token_generation_model in 40.02 seconds
generating HLO: token_generation_model, input example shape = torch.Size([4, 1])
Finished generating HLO for token_generation_model in 30.5 seconds, input example shape = torch.Size([4, 1])
generating HLO: token_generation_model, input example shape = torch.Size([4, 1])
Finished generating HLO for token_generation_model in 30.1 seconds, input example shape = torch.Size([4, 1])
Generated all HLOs in 301.4 seconds
Starting compilation for the priority HLO
'token_generation_model' is the priority model with bucket rank 0
Done compilation for the priority HLO in 402.5 seconds
Updating the hlo module with optimized layout
Done optimizing weight layout for all HLOs in 8.1 seconds
Starting compilation for all HLOs
Neuron compiler flags: --enable-saturate-infinity --auto-cast=none --model-type=transformer -O1
Neuron compiler flags: --enable-saturate-infinity --auto-cast=none --model-type=transformer -O1
Neuron compiler flags: --enable-saturate-infinity --auto-cast=none --model-type=transformer -O1
Finished Compilation for all HLOs in 1502.7 seconds
Done preparing weight layout transformation
Finished building model in 2250.2 seconds
Pre-sharding checkpoints.
Sharding weights for ranks: 0...31
Done Sharding weights in 533.2
""".splitlines()


def followed(messages) -> list[str]:
    """What is shown, in order, each once."""
    log, seen = CompileLog(4), []
    for message in messages:
        log.read(message)
        seen.append(str(log.progress))
    return [words for words, _ in itertools.groupby(seen)]


def test_a_recorded_compilation_shows_its_stages():
    assert followed(RECORDED) == [
        "starting the Neuron SDK",
        *(f"tracing the model, {done} of 4 graphs done" for done in range(5)),
        "compiling, 0 of 4 graphs done",
        "compiling, 1 of 4 graphs done",
        "putting the graphs together",
        "cutting the weights for the cores",
        "cutting the weights, 32 of 32 cores done",
    ]


def test_the_bar_goes_from_nothing_to_all_and_never_back():
    log, shares = CompileLog(4), [0.0]
    for message in RECORDED:
        log.read(message)
        shares.append(log.progress.fraction)
        log.update_counts(2, 0)
        shares.append(log.progress.fraction)
    assert shares == sorted(shares)
    assert shares[1] == 0
    assert shares[-1] == pytest.approx(1)


def test_between_two_messages_files_tell_how_far_it_is():
    log = CompileLog(4)
    for message in RECORDED[: RECORDED.index("Starting compilation for all HLOs") + 1]:
        log.read(message)
    log.update_counts(3, 0)
    assert log.progress == CompileProgress("compiling", 3, 4)
    for message in RECORDED[:-1]:
        log.read(message)
    log.update_counts(4, 20)
    assert log.progress == CompileProgress("weights", 20, 32)


@pytest.mark.parametrize("message", ["", "generating HLO", "Sharding weights for ranks: all", "Compiler status PASS"])
def test_any_other_message_changes_nothing(message):
    log = CompileLog(4)
    for known in RECORDED[:8]:
        log.read(known)
    before = log.progress
    log.read(message)
    assert log.progress == before


def test_files_of_an_earlier_stage_do_not_count():
    log = CompileLog(2)
    log.update_counts(2, 2)
    assert log.progress == CompileProgress("starting", 0, 2)


@pytest.mark.parametrize(
    ("message", "stage"),
    [
        ("Loading presharded checkpoints for ranks: 0...31", "loading the weights onto the device"),
        ("Sharding weights on load...", "cutting the weights for the cores"),
        ("Warming up the model.", "the device warms up"),
        ("Warmup completed in 12.5 seconds.", None),
    ],
)
def test_loading_has_stages_too(message, stage):
    assert loading_stage(message) == stage


def test_stages_of_loading_are_told_and_the_logger_is_left_as_it_was(caplog):
    logger, told = logging.getLogger("Neuron"), []
    before = (logger.level, logger.propagate, list(logger.handlers))
    with report_loading(told.append):
        logger.info("Warming up the model.")
        logger.info("Something else")
    logger.info("Sharding weights on load...")
    assert told == ["the device warms up"]
    assert (logger.level, logger.propagate, logger.handlers) == before
    assert not caplog.records
