from __future__ import annotations

from collections import Counter
from pathlib import Path

import msgspec
import pytest

from pytest_llmbench.schema.case import Case
from pytest_llmbench.store.published import PublishedRow, PublishedTable, load_published
from pytest_llmbench.tables import ALL_TABLES, TABLES
from pytest_llmbench.tables.selection import find_case, select

Published = dict[str, PublishedTable]

ROOT = Path(__file__).parents[2]

NUM_ROWS = {
    "quantization": 12,
    "lora_max_length": 50,
    "full_max_length": 15,
    "batch_size": 4,
    "flash_attention": 4,
    "lora_rank": 4,
    "gradient_accumulation": 7,
}

# Typed by hand from the page: speed, memory of each GPU.
CELLS = [
    ("quantization", "qwen-7b-chat-gptq-int4", 2.05, (19.21,)),
    ("quantization", "qwen-14b-chat-gptq-int8", 1.08, (29.13,)),
    ("quantization", "qwen-72b-chat-bf16", 0.59, (73.71, 78.54)),
    ("quantization", "qwen-72b-chat-bnb-nf4", 0.28, (74.87,)),
    ("lora_max_length", "qwen-1_8b-chat-512", 9.88, (6.99,)),
    ("lora_max_length", "qwen-7b-chat-2048", 4.31, (27.74,)),
    ("lora_max_length", "qwen-72b-chat-1024", 1.02, (70.25, 77.11)),
    ("lora_max_length", "qwen-72b-chat-4096", None, None),
    ("lora_max_length", "qwen-72b-chat-8192", None, None),
    ("lora_max_length", "chatglm3-6b-8192", 1.24, (66.82,)),
    ("lora_max_length", "yi-34b-chat-4096", 0.47, (78.72,)),
    ("lora_max_length", "yi-34b-chat-8192", 0.31, (47.01, 65.03)),
    ("lora_max_length", "openbuddy-zephyr-7b-chat-4096", 1.85, (23.29,)),
    ("lora_max_length", "baichuan2-13b-chat-8192", 0.36, (76.17,)),
    ("full_max_length", "qwen-1_8b-chat-2048", 8.73, (35.11,)),
    ("full_max_length", "qwen-7b-chat-8192", 1.11, (61.34, 73.00)),
    ("full_max_length", "qwen-14b-chat-8192", 0.62, (76.59, 77.68)),
    ("batch_size", "qwen-7b-chat-batch-8", 2.77, (76.14,)),
    ("flash_attention", "qwen-7b-chat-flash-no-checkpointing", 6.19, (37.70,)),
    ("flash_attention", "qwen-7b-chat-no-flash-checkpointing", 3.13, (27.71,)),
    ("lora_rank", "qwen-7b-chat-rank-8-all", 3.22, (27.87,)),
    ("gradient_accumulation", "qwen-7b-chat-accumulation-1", 4.26, (27.73,)),
]

# All speeds, memories and trainable parameters of a table of the page, added up.
SUMS = {
    "quantization": 594.28,
    "lora_max_length": 2205.07,
    "full_max_length": 1358.21,
    "batch_size": 224.50,
    "flash_attention": 168.90,
    "lora_rank": 183.85,
    "gradient_accumulation": 224.33,
}


@pytest.fixture(scope="module")
def published() -> Published:
    return load_published(ROOT / "baselines")


def case_of(table: str, row_id: str) -> Case:
    return next(row.case for row in TABLES[table].rows if row.id == row_id)


def printed_numbers(row: PublishedRow) -> list[float]:
    numbers = [row.samples_per_second, *(row.memory_gib or ()), row.trainable_parameters_millions]
    return [number for number in numbers if number is not None]


def test_tables_stand_in_the_order_of_the_page() -> None:
    assert list(TABLES) == list(NUM_ROWS)


def test_a_table_is_found_by_its_own_name() -> None:
    assert [table.name for table in TABLES.values()] == list(TABLES)


@pytest.mark.parametrize(("table", "expected"), NUM_ROWS.items())
def test_table_has_as_many_rows_as_published(table: str, expected: int) -> None:
    assert len(TABLES[table].rows) == expected


def test_there_are_96_rows_in_all() -> None:
    assert sum(len(table.rows) for table in TABLES.values()) == 96


@pytest.mark.parametrize("table", TABLES)
def test_ids_are_unique_within_a_table(table: str) -> None:
    ids = Counter(row.id for row in TABLES[table].rows)

    assert max(ids.values()) == 1


@pytest.mark.parametrize("table", TABLES)
def test_cases_are_unique_within_a_table(table: str) -> None:
    cases = Counter(row.case for row in TABLES[table].rows)

    assert max(cases.values()) == 1


@pytest.mark.parametrize("table", TABLES)
def test_columns_are_the_model_and_the_fields_that_vary(table: str) -> None:
    cases = [msgspec.structs.asdict(row.case) for row in TABLES[table].rows]
    varying = {field for field in Case.__struct_fields__ if len({str(case[field]) for case in cases}) > 1}

    assert {field for _, field in TABLES[table].columns} == varying | {"model"}


@pytest.mark.parametrize("table", TABLES)
def test_cases_survive_json(table: str) -> None:
    cases = [row.case for row in TABLES[table].rows]

    assert msgspec.json.decode(msgspec.json.encode(cases), type=list[Case]) == cases


def test_every_table_has_its_test_module() -> None:
    modules = {path.stem for path in (ROOT / "tests" / "tables").glob("test_*.py")}

    assert modules == {f"test_{name}" for name in TABLES}
    for name in set(ALL_TABLES) - set(TABLES):
        assert (ROOT / "examples" / name / f"test_{name}.py").is_file()


def test_thirteen_rows_need_two_gpus() -> None:
    counts = Counter(row.case.num_gpus for table in TABLES.values() for row in table.rows)

    assert counts == {1: 83, 2: 13}


@pytest.mark.parametrize(
    ("table", "row_id", "expected"),
    [
        ("quantization", "qwen-7b-chat-bf16", Case(model="qwen-7b-chat")),
        ("quantization", "qwen-72b-chat-bf16", Case(model="qwen-72b-chat", num_gpus=2)),
        ("quantization", "qwen-72b-chat-gptq-int8", Case(model="qwen-72b-chat", quantization="gptq-int8")),
        ("quantization", "qwen-7b-chat-bnb-nf4", Case(model="qwen-7b-chat", quantization="bnb-nf4")),
        ("lora_max_length", "yi-34b-chat-8192", Case(model="yi-34b-chat", max_length=8192, num_gpus=2)),
        ("lora_max_length", "chatglm3-6b-512", Case(model="chatglm3-6b", max_length=512, attention="sdpa")),
        ("lora_max_length", "baichuan2-7b-chat-2048", Case(model="baichuan2-7b-chat", attention="xformers")),
        ("lora_max_length", "baichuan2-13b-chat-2048", Case(model="baichuan2-13b-chat", attention="sdpa")),
        ("full_max_length", "qwen-1_8b-chat-512", Case(model="qwen-1_8b-chat", tuner="full", max_length=512)),
        ("batch_size", "qwen-7b-chat-batch-4", Case(model="qwen-7b-chat", batch_size=4, accumulation_steps=4)),
        (
            "flash_attention",
            "qwen-7b-chat-no-flash-no-checkpointing",
            Case(model="qwen-7b-chat", attention="sdpa-math", gradient_checkpointing=False),
        ),
        ("lora_rank", "qwen-7b-chat-rank-8-all", Case(model="qwen-7b-chat", lora_targets="all")),
        ("gradient_accumulation", "qwen-7b-chat-accumulation-64", Case(model="qwen-7b-chat", accumulation_steps=64)),
    ],
)
def test_row_asks_for_what_the_page_describes(table: str, row_id: str, expected: Case) -> None:
    assert case_of(table, row_id) == expected


def test_fifteen_rows_ran_the_attention_of_their_model() -> None:
    counts = Counter(row.case.attention for row in TABLES["lora_max_length"].rows)

    assert counts == {"flash": 35, "sdpa": 10, "xformers": 5}


def test_every_batch_size_takes_sixteen_samples_per_optimizer_step() -> None:
    cases = [row.case for row in TABLES["batch_size"].rows]

    assert [case.batch_size * case.accumulation_steps for case in cases] == [16] * 4


def test_published_tables_are_those_of_the_page(published: Published) -> None:
    assert set(published) == set(TABLES)


@pytest.mark.parametrize("table", TABLES)
def test_published_rows_match_the_table_one_to_one(published: Published, table: str) -> None:
    assert list(published[table].rows) == [row.id for row in TABLES[table].rows]


@pytest.mark.parametrize(("table", "row_id", "samples_per_second", "memory_gib"), CELLS)
def test_published_cell_is_what_the_page_prints(
    published: Published,
    table: str,
    row_id: str,
    samples_per_second: float | None,
    memory_gib: tuple[float, ...] | None,
) -> None:
    row = published[table].rows[row_id]

    assert (row.samples_per_second, row.memory_gib) == (samples_per_second, memory_gib)


@pytest.mark.parametrize(("table", "expected"), SUMS.items())
def test_published_numbers_add_up_to_those_of_the_page(published: Published, table: str, expected: float) -> None:
    total = sum(sum(printed_numbers(row)) for row in published[table].rows.values())

    assert total == pytest.approx(expected, abs=0.001)


def test_two_published_rows_went_out_of_memory(published: Published) -> None:
    out_of_memory = [
        (name, row_id)
        for name, table in published.items()
        for row_id, row in table.rows.items()
        if row.outcome == "oom"
    ]

    assert out_of_memory == [("lora_max_length", "qwen-72b-chat-4096"), ("lora_max_length", "qwen-72b-chat-8192")]


@pytest.mark.parametrize("table", TABLES)
def test_published_memory_has_one_figure_per_gpu(published: Published, table: str) -> None:
    num_gpus = {row.id: row.case.num_gpus for row in TABLES[table].rows}
    figures = {row_id: len(row.memory_gib) for row_id, row in published[table].rows.items() if row.memory_gib}

    assert figures == {row_id: num_gpus[row_id] for row_id in figures}


def test_trainable_parameters_are_published_for_the_lora_ranks(published: Published) -> None:
    rows = published["lora_rank"].rows.values()

    assert [row.trainable_parameters_millions for row in rows] == [1.05, 4.19, 33.55, 17.89]


@pytest.mark.parametrize("table", [name for name in TABLES if name != "lora_rank"])
def test_trainable_parameters_are_unknown_elsewhere(published: Published, table: str) -> None:
    assert {row.trainable_parameters_millions for row in published[table].rows.values()} == {None}


def test_rows_beside_the_page_are_not_among_the_96() -> None:
    assert set(ALL_TABLES) - set(TABLES) == {"as_users_train"}
    assert {one.table for one in select()} == set(TABLES)


def test_rows_beside_the_page_run_a_model_of_transformers_padded_under_its_own_attention_and_the_trainer() -> None:
    cases = [row.case for row in ALL_TABLES["as_users_train"].rows]

    assert {one.model for one in cases} == {"yi-6b-chat"}
    assert {(one.attention, one.batch_size) for one in cases if one.loop == "step"} >= {("sdpa", 1), ("flash", 4)}
    assert {one.attention for one in cases if one.loop == "trainer"} == {"sdpa", "flash"}


def test_rows_beside_the_page_can_be_selected_by_their_table_and_by_their_name() -> None:
    assert len(select(tables=["as_users_train"])) == len(ALL_TABLES["as_users_train"].rows)
    assert find_case("yi-6b-chat-sdpa-batch-4").table == "as_users_train"
