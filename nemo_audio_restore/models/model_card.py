"""The card of a model on the Hugging Face Hub: what it is, how to use it, and whose licence it has."""

from collections.abc import Sequence

import yaml

OPEN_LICENCES = ('apache-2.0', 'mit', 'bsd-3-clause', 'cc0-1.0', 'cc-by-4.0', 'cc-by-sa-4.0')


class ModelCard:
    """Facts about weights that the weights cannot tell; the ``card`` block of a model's config.

    Args:
        summary: what the model does, in two sentences.
        license: a licence that the Hub knows (like ``apache-2.0``), or ``other``.
        license_name: the name its owner uses; needed with ``other``.
        license_link: where its text is.
        base_model: Hub name of the model that this one was made from.
        datasets: names of the training data, with their licences.
        text: the rest of the card in markdown: numbers, limits, samples.
    """

    def __init__(
        self,
        *,
        summary: str = '',
        license: str = 'other',
        license_name: str = 'not stated',
        license_link: str = '',
        base_model: str = '',
        datasets: Sequence[str] = (),
        text: str = '',
    ):
        if license != 'other' and license not in OPEN_LICENCES:
            raise ValueError(f"license must be 'other' (with license_name) or one of {OPEN_LICENCES}; got {license!r}")
        self.summary = summary
        self.license = license
        self.license_name = license_name
        self.license_link = license_link
        self.base_model = base_model
        self.datasets = tuple(datasets)
        self.text = text

    def front_matter(self, *, pipeline_tag: str, tags: Sequence[str]) -> str:
        """The YAML header, with its dashes.

        Args:
            pipeline_tag: of the Hub, like ``audio-to-audio``.
            tags: what the model is about.

        Returns:
            Three dashes, the facts that are known, three dashes.
        """
        facts = {
            'library_name': 'nemo',
            'pipeline_tag': pipeline_tag,
            'license': self.license,
            'license_name': self.license_name if self.license == 'other' else '',
            'license_link': self.license_link,
            'base_model': self.base_model,
            'tags': ['nemo', 'audio', *tags, 'pytorch'],
        }
        header = yaml.safe_dump({key: value for key, value in facts.items() if value}, sort_keys=False)
        return f'---\n{header}---\n'

    def render(
        self,
        *,
        title: str,
        class_name: str,
        reference: str,
        pipeline_tag: str,
        tags: Sequence[str],
        facts: Sequence[str],
    ) -> str:
        """The whole card.

        Args:
            title: heading.
            class_name: of the model.
            reference: what ``from_pretrained`` takes.
            pipeline_tag: of the Hub.
            tags: of the Hub.
            facts: lines about inputs, outputs and size.

        Returns:
            Markdown.
        """
        licence = self.license if self.license != 'other' else self.license_name
        link = f' ({self.license_link})' if self.license_link else ''
        data = [f'- {name}' for name in self.datasets] or ['Not stated.']
        sections = [
            self.front_matter(pipeline_tag=pipeline_tag, tags=tags),
            f'# {title}\n',
            f'{self.summary}\n' if self.summary else '',
            '## Use\n',
            '```\npip install nemo-audio-restore\n'
            f'python -c "from nemo_audio_restore import {class_name}; '
            f"model = {class_name}.from_pretrained('{reference}')\"\n```\n",
            '## Facts\n',
            '\n'.join(f'- {fact}' for fact in facts) + '\n',
            self.text.rstrip() + '\n' if self.text else '',
            '## Training data\n',
            '\n'.join(data) + '\n',
            '## Licence\n',
            f'{licence[0].upper()}{licence[1:]}{link}.\n',
        ]
        return '\n'.join(section for section in sections if section)
