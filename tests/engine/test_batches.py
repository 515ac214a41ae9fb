"""Random tokens, padding and labels of the batches."""

from __future__ import annotations

import pytest
import torch

from pytest_llmbench.engine.batches import collate, make_batches

VOCABULARY = 512


def test_a_batch_of_one_is_never_padded_and_has_no_mask() -> None:
    batches = make_batches([40, 7], 1, VOCABULARY, "cpu", seed=1)

    assert [tuple(batch.input_ids.shape) for batch in batches] == [(1, 40), (1, 7)]
    assert all(batch.attention_mask is None for batch in batches)


def test_samples_of_one_length_have_no_mask() -> None:
    (batch,) = make_batches([40, 40], 2, VOCABULARY, "cpu", seed=1)

    assert batch.attention_mask is None


def test_padding_goes_right_to_the_longest_of_the_batch() -> None:
    (batch,) = make_batches([40, 20], 2, VOCABULARY, "cpu", seed=1)

    assert batch.attention_mask is not None
    assert batch.attention_mask.tolist() == [[1] * 40, [1] * 20 + [0] * 20]
    assert batch.input_ids[1, 20:].tolist() == [0] * 20


def test_each_batch_pads_to_its_own_longest() -> None:
    batches = make_batches([40, 20, 9, 8], 2, VOCABULARY, "cpu", seed=1)

    assert [batch.input_ids.shape[1] for batch in batches] == [40, 9]


def test_padding_is_the_token_asked_for() -> None:
    (batch,) = make_batches([4, 2], 2, VOCABULARY, "cpu", seed=1, pad_token_id=7)

    assert batch.input_ids[1, 2:].tolist() == [7, 7]


def test_samples_and_tokens_are_counted_without_padding() -> None:
    batches = make_batches([40, 20, 9], 2, VOCABULARY, "cpu", seed=1)

    assert [(batch.samples, batch.tokens) for batch in batches] == [(2, 60), (1, 9)]


def test_tokens_are_never_zero_and_in_the_vocabulary() -> None:
    (batch,) = make_batches([10_000], 1, VOCABULARY, "cpu", seed=1)

    assert batch.input_ids.min() == 1
    assert batch.input_ids.max() == VOCABULARY - 1


@pytest.mark.parametrize(("length", "response"), [(40, 8), (16, 8), (9, 4), (3, 1), (2, 1)])
def test_the_loss_is_on_the_last_eight_tokens_or_half_of_a_shorter_sample(length: int, response: int) -> None:
    (batch,) = make_batches([length], 1, VOCABULARY, "cpu", seed=1)

    assert batch.labels[0, : length - response].tolist() == [-100] * (length - response)
    assert batch.labels[0, length - response :].tolist() == batch.input_ids[0, length - response :].tolist()


def test_padding_has_no_loss() -> None:
    (batch,) = make_batches([40, 20], 2, VOCABULARY, "cpu", seed=1)

    assert (batch.labels[1, 20:] == -100).all()
    assert (batch.labels[1, 12:20] != -100).all()


def test_one_seed_gives_the_same_tokens() -> None:
    one, same, other = (make_batches([40], 1, VOCABULARY, "cpu", seed=seed)[0].input_ids for seed in (1, 1, 2))

    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_the_inputs_are_what_a_model_takes() -> None:
    (batch,) = make_batches([40, 20], 2, VOCABULARY, "cpu", seed=1)

    assert batch.inputs() == {
        "input_ids": batch.input_ids,
        "attention_mask": batch.attention_mask,
        "labels": batch.labels,
    }


def test_a_mask_that_was_asked_for_is_of_ones_where_nothing_is_padded() -> None:
    batch = collate([torch.arange(1, 8)], always_masked=True)

    assert batch.attention_mask is not None
    assert batch.attention_mask.tolist() == [[1] * 7]


def test_a_mask_of_ones_leaves_the_samples_as_they_are() -> None:
    (sample,) = collate([torch.arange(1, 8)], always_masked=True).sequences()

    assert sample.tolist() == [1, 2, 3, 4, 5, 6, 7]
