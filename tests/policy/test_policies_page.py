"""The examples of docs/policies.md decide what the page says, and every template decides something that holds."""

import json
import re
from importlib.resources import files

import pytest
from beeyard_queen.policy.context_file import read_context
from beeyard_queen.policy.starters import templates
from beeyard_queen.policy.templates_command import main
from beeyard_queen.policy.trial import Trial, run_trial, sandbox
from beeyard_queen.policy.yaml_compile import compile_yaml

from tests.style import repository

EXAMPLE = re.compile(r"```(lua|yaml)\n(.*?)```\s+```json\n(.*?)\n```", re.DOTALL)
EXAMPLES = EXAMPLE.findall(repository.text_of("docs/policies.md"))


async def tried(language: str, text: str) -> Trial:
    sample = files("beeyard_queen.policy") / "sample_context.json"
    scene = read_context(sample.read_text(encoding="utf-8"))
    lua = compile_yaml(text) if language == "yaml" else text
    async with sandbox() as zygote:
        return await run_trial(zygote, lua.encode(), scene)


@pytest.mark.parametrize(("language", "text", "expected"), EXAMPLES)
async def test_the_pages_examples_decide_what_it_says(
    language: str, text: str, expected: str
) -> None:
    trial = await tried(language, text)
    assert trial.verdict == "decision", trial.reason
    decisions = list(trial.decisions)
    told = json.loads(expected)
    assert decisions == (told["actions"] if told["action"] == "batch" else [told])


def test_the_page_has_its_examples() -> None:
    assert len(EXAMPLES) >= 5


@pytest.mark.parametrize("name", [each.name for each in templates()])
async def test_every_template_decides_something_that_holds(name: str) -> None:
    (template,) = [each for each in templates() if each.name == name]
    trial = await tried(template.language, template.source)
    assert (trial.verdict, trial.reason) == ("decision", "")
    assert template.does
    assert template.use_when


def test_the_templates_are_listed_and_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    listed = capsys.readouterr().out
    assert all(each.name in listed and each.use_when in listed for each in templates())
    assert len(templates()) == 9
    assert main(["cost"]) == 0
    assert capsys.readouterr().out.startswith("-- Cost: ")
    assert main(["--json", "cost"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["name"] == "cost"
    assert main(["nothing"]) == 2
    assert "platform-clone" in capsys.readouterr().err


def test_the_list_of_templates_says_how_it_is_called(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    assert "NAME" in capsys.readouterr().out
