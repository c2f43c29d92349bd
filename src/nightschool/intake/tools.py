"""The tokenizer and the template of a run, and what a recipe means with them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nightschool import basemodel
from nightschool.errors import DataError
from nightschool.intake.recipe import RECIPE_VERSION
from nightschool.settings import Settings

if TYPE_CHECKING:
    from nightschool.intake.template import Template


class Tools:
    """The tokenizer and the template of a run, loaded when the first file needs them."""

    def __init__(self, settings: Settings, cache_file: Path | None = None) -> None:
        from nightschool.intake import template, tokenise

        self.settings = settings
        model = settings.model
        folder = basemodel.resolve(model.name, model.revision)
        self.tokenizer_digest = basemodel.tokenizer_digest(folder, cache_file)
        self.tokenizer = tokenise.load_tokenizer(folder, model.trust_remote_code)
        file = Path(model.chat_template) if model.chat_template else None
        self._file = file
        self.template = template.choose(self.tokenizer, settings.data.loss_on, file)

    def recipe(self, day: str, options: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """All that decides which tokens a file becomes.

        Args:
            day: that of its acceptance, YYYY-MM-DD.
            options: the file's own settings.
        """
        return {
            "v": RECIPE_VERSION,
            **self.settings.data_recipe(options),
            "tokenizer": self.tokenizer_digest,
            "chat_template": self.template.sha256,
            "date": day if self.template.dated else None,
        }

    def template_for(self, recipe: dict[str, Any]) -> Template:
        """The template that a recipe means.

        Raises:
            DataError: the recipe was made with another tokenizer or template than this one.
        """
        from nightschool.intake import template

        if recipe["tokenizer"] != self.tokenizer_digest:
            raise DataError("The tokenizer is not the one that this file was prepared with. Put the old files back.")
        chosen = self.template
        if recipe["loss_on"] != self.settings.data.loss_on:
            chosen = template.choose(self.tokenizer, recipe["loss_on"], self._file)
        if recipe["chat_template"] != chosen.sha256:
            raise DataError(
                "The chat template is not the one that this file was prepared with. Put the old one back "
                "(model.chat_template), or the libraries' old versions if the model's own files are unchanged."
            )
        return chosen
