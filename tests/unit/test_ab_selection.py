"""Which cases a command measures: expressions as for pytest -k, tables, steps, and a single case by its name."""

from __future__ import annotations

import pytest

from pytest_llmbench.schema.case import CaseError
from pytest_llmbench.tables import TABLES
from pytest_llmbench.tables.expression import ExpressionError, matcher
from pytest_llmbench.tables.selection import SelectionError, find_case, select


@pytest.mark.parametrize(
    ("expression", "selects"),
    [
        ("", True),
        ("qwen-7b", True),
        ("QWEN-7B", True),
        ("qwen-14b", False),
        ("quantization and 7b", True),
        ("14b or nf4", True),
        ("not nf4", False),
        ("not not nf4", True),
        ("7b and not (gptq or int8)", True),
        ("14b or 7b and int8", False),
        ("(14b or 7b) and nf4", True),
        ("quantization[qwen-7b", True),
    ],
)
def test_an_expression_selects_as_for_pytest(expression: str, selects: bool) -> None:
    assert matcher(expression)("quantization[qwen-7b-chat-bnb-nf4]") is selects


@pytest.mark.parametrize("expression", ["and", "a and", "or b", "not", "(a", "a)", "a b", "a, b", "()", "a not b"])
def test_what_is_no_expression_is_refused_with_its_text(expression: str) -> None:
    with pytest.raises(ExpressionError, match="-k "):
        matcher(expression)


def test_without_any_choice_all_rows_are_selected() -> None:
    assert len(select()) == sum(len(table.rows) for table in TABLES.values())


def test_a_table_is_selected_in_the_order_of_the_page() -> None:
    assert [one.row for one in select(tables=["lora_rank"])] == [row.id for row in TABLES["lora_rank"].rows]


def test_an_expression_sees_the_name_of_the_table() -> None:
    assert {one.table for one in select("accumulation and chat-accumulation-1")} == {"gradient_accumulation"}


def test_steps_alone_select_no_rows() -> None:
    (only,) = select(steps=["pkg.bench:build"])

    assert (only.name, only.case.step) == ("steps[pkg.bench:build]", "pkg.bench:build")


def test_a_step_has_the_arguments_that_are_given() -> None:
    (only,) = select(steps=["pkg.bench:build"], arguments={"layers": 2})

    assert only.case.arguments == {"layers": 2}
    assert find_case("pkg.bench:build", arguments={"layers": 2}) == only


def test_a_row_has_no_arguments() -> None:
    with pytest.raises(SelectionError, match=r"--step-arguments with the row 'qwen-7b-chat-batch-4': only a step"):
        find_case("qwen-7b-chat-batch-4", arguments={"layers": 2})


def test_steps_come_beside_rows_that_are_asked_for() -> None:
    assert [one.table for one in select("chat-batch-4", steps=["m:f"])] == ["batch_size", "steps"]


def test_another_loop_stands_in_the_name_of_the_row() -> None:
    (row,) = select("chat-batch-4", loop="trainer")

    assert (row.row, row.case.loop) == ("qwen-7b-chat-batch-4-trainer", "trainer")


def test_a_selection_of_nothing_is_refused() -> None:
    with pytest.raises(SelectionError, match="selects no row"):
        select("llama")


def test_an_unknown_table_is_refused_with_the_known_ones() -> None:
    with pytest.raises(SelectionError, match=r"no table 'lora'.*lora_rank"):
        select(tables=["lora"])


def test_a_case_is_found_by_its_row_where_one_table_has_it() -> None:
    assert find_case("qwen-7b-chat-batch-4").name == "batch_size[qwen-7b-chat-batch-4]"


def test_a_row_of_several_tables_has_to_be_named_with_its_table() -> None:
    with pytest.raises(SelectionError, match=r"several tables; choose lora_max_length\[qwen-7b-chat-512\] or full"):
        find_case("qwen-7b-chat-512")
    assert find_case("full_max_length[qwen-7b-chat-512]").case.tuner == "full"


def test_a_case_may_be_a_step_of_ones_own() -> None:
    assert find_case("bench:build").case.step == "bench:build"


def test_a_misspelt_case_is_refused_with_what_is_near() -> None:
    with pytest.raises(SelectionError, match=r"did you mean .*qwen-7b-chat-batch-1"):
        find_case("chat-batch-")
    with pytest.raises(CaseError):
        find_case("no module:f")


@pytest.mark.parametrize("expression", ["7b and int4-bnb", "quantization[qwen-7b-chat-int4-bnb]", "7b and bnb-nf4"])
def test_a_row_is_selected_by_the_words_of_its_former_name_too(expression: str) -> None:
    assert [one.name for one in select(expression)] == ["quantization[qwen-7b-chat-bnb-nf4]"]


def test_the_words_of_a_former_name_take_a_row_out_too() -> None:
    left = {one.row for one in select("not int4-gptq", tables=["quantization"])}

    assert len(left) == 9
    assert not any("gptq-int4" in row for row in left)


@pytest.mark.parametrize("named", ["qwen-7b-chat-int4-bnb", "quantization[qwen-7b-chat-int4-bnb]"])
def test_a_case_is_found_by_its_former_name(named: str) -> None:
    assert find_case(named).name == "quantization[qwen-7b-chat-bnb-nf4]"
