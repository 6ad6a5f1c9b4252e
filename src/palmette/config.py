"""Every setting, validated. What a user writes in YAML or builds in Python; nothing here reads data."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, get_args

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    PrivateAttr,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)

from palmette.errors import ConfigError
from palmette.overrides import read_override
from palmette.types import SPLITS


class Settings(BaseModel):
    """Base of all settings: frozen, and an unknown key, an infinite number or a truth value as number is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _truth_is_no_number(cls, data: Any) -> Any:
        """YAML reads `yes` and `on` as true, which Python counts as 1."""
        for key, value in data.items() if isinstance(data, dict) else ():
            field = cls.model_fields.get(key)
            types = set() if field is None else {field.annotation, *get_args(field.annotation)}
            if types & {int, float} and bool not in types:
                found = (
                    {(key, name): one for name, one in value.items()} if isinstance(value, dict) else {(key,): value}
                )
                for place, one in found.items():
                    if isinstance(one, bool):
                        raise _located(place, f"expected a number, found {one!r}")
        return data


LANGUAGE_MODEL = "smollm2-135m-instruct"  # the offline default of family causal_lm


class TrunkConfig(Settings):
    """The shared encoder."""

    name: str = Field(
        "all-minilm-l6-v2",
        min_length=1,
        description="A hub id, a folder with config.json, the folder of a finished run (its trained trunk is the "
        "start), or all-minilm-l6-v2 (weights that palmette[offline] brings).",
    )
    layers: int | None = Field(None, ge=1, description="Keep only the first k layers of a deeper encoder.")
    casing: bool | None = Field(
        None,
        description="Add a learned embedding of each word's casing to the trunk's input. "
        "Default: on where the tokenizer lower-cases, since the trunk then sees no capitals.",
    )
    max_length: int | None = Field(
        None,
        ge=16,
        description="Longest input in subwords; longer texts are windowed, or cut by models that write. Default: what "
        "the trunk takes.",
    )
    frozen: bool = Field(
        False, description="Train the heads only: the trunk stays as it is (feature extraction), without dropout."
    )

    heads: Literal["new", "kept"] = Field(
        "new",
        description="Where the trunk is a run: kept starts from its heads too (training on), of tasks that have the "
        "same labels; new begins them at random.",
    )

    @model_validator(mode="after")
    def _frozen_means_all_of_it(self) -> TrunkConfig:
        if self.frozen and self.casing:
            raise ValueError("casing: a new embedding would have to be trained, and the trunk is frozen: leave it out")
        return self


class TaskConfig(Settings):
    """One thing to predict."""

    kind: str = Field(description="How the task is predicted, e.g. sequence_labeling.")
    metric: str | None = Field(None, description="The metric that stands for the task. Default: the kind's own.")
    scheme: Literal["iob1", "iob2", "iobes"] | None = Field(
        None, description="How spans are written as tags (sequence_labeling). Without it tags are plain."
    )
    weight: float = Field(1.0, gt=0, description="Static weight of the task's loss.")
    train_fraction: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Train on this share of the task's training examples, chosen by their words alone: "
        "a smaller share is part of a larger one.",
    )
    options: dict[str, Any] = Field(default_factory=dict, description="Settings of a kind from another package.")


class Cut(Settings):
    """A split cut from this source's training data."""

    fraction: float = Field(gt=0, lt=1, description="Share of the training examples (or groups) that it takes.")
    group_by: str | None = Field(None, description="Field whose equal values stay together, e.g. a document id.")
    seed: int = Field(13, description="Which examples are cut.")


def _form(value: Any) -> str | None:
    """Which member of a union a value is meant to be, so that an error is about that member alone."""
    forms = ((bool, None), (str, "<name>"), (int, "<number>"), (list, "<list>"), (dict | Settings, "<mapping>"))
    return next((form for kind, form in forms if isinstance(value, kind)), None)


def _one_of(wanted: str) -> Discriminator:
    return Discriminator(_form, custom_error_type="form", custom_error_message=f"expected {wanted}")


Column: TypeAlias = Annotated[
    Annotated[str, Tag("<name>")] | Annotated[int, Tag("<number>")], _one_of("a column's name or number")
]


class LabelField(Settings):
    """Where a label stands, when a bare column does not say enough."""

    column: Column = Field(description="Column name or number (from 0), or key.")
    separator: str | None = Field(None, min_length=1, description="The value holds several labels joined by this.")
    span_types: bool = Field(False, description="The value is span tags; the label is the set of types they contain.")
    rename: dict[str | int, str] = Field(
        default_factory=dict,
        description="Labels called otherwise here than elsewhere; others stay. A name that no label has is told.",
    )

    @field_validator("rename", mode="before")
    @classmethod
    def _truth_is_no_label(cls, rename: Any) -> Any:
        """YAML reads `yes` as true, which no file writes."""
        for key in rename if isinstance(rename, dict) else ():
            if isinstance(key, bool):
                raise _located((key,), "a truth value in YAML, as yes or off: use quotes")
        return rename


Files: TypeAlias = Annotated[
    Annotated[str, Tag("<name>")] | Annotated[list[str], Field(min_length=1), Tag("<list>")],
    _one_of("a file or a list of files"),
]
SplitFiles: TypeAlias = Annotated[
    Annotated[str, Tag("<name>")]
    | Annotated[list[str], Field(min_length=1), Tag("<list>")]
    | Annotated[Cut, Tag("<mapping>")],
    _one_of("a file, a list of files, or a cut of train such as {fraction: 0.1}"),
]
LabelSpec: TypeAlias = Annotated[
    Annotated[str, Tag("<name>")] | Annotated[int, Tag("<number>")] | Annotated[LabelField, Tag("<mapping>")],
    _one_of("a column's name or number, or a mapping with column"),
]


class SourceConfig(Settings):
    """What every source says, whatever its format."""

    name: str | None = Field(None, description="Short name in reports. Default: made from the first file's path.")
    train: Files | None = Field(None, description="File, or several files.")
    dev: SplitFiles | None = Field(None, description="File, several files, or a cut of train.")
    test: SplitFiles | None = Field(None, description="File, several files, or a cut of train.")
    labels: dict[str, LabelSpec] = Field(min_length=1, description="Task name to where its label stands.")
    license: str | None = Field(None, description="Licence of the data, e.g. CC-BY-SA-4.0; carried to the model card.")
    language: str | None = Field(None, description="Language of its raw texts. Default: the config's.")

    @model_validator(mode="after")
    def _cuts_need_train(self) -> SourceConfig:
        cut = [split for split in SPLITS if isinstance(getattr(self, split), Cut)]
        if cut and self.train is None:
            raise ValueError(f"{cut[0]} is cut from train, but the source has no train")
        if not any(getattr(self, split) for split in SPLITS):
            raise ValueError("a source needs at least one of train, dev, test")
        return self

    def label_field(self, task: str) -> LabelField:
        """Where `task`'s label stands, in the long form."""
        spec = self.labels[task]
        return spec if isinstance(spec, LabelField) else LabelField(column=spec)


class ConlluSource(SourceConfig):
    """CoNLL-U. A label is a column (`upos`), a key (`feats.Gender`, `misc.NER`) or a comment (`comment.sentiment`)."""

    format: Literal["conllu"]


class ColumnsSource(SourceConfig):
    """One token a line in columns, a blank line between sentences; columns count from 0."""

    format: Literal["columns"]
    text_column: int = Field(0, ge=0, description="Column of the token.")
    delimiter: Literal["tab", "space", "whitespace"] = Field(
        "tab", description="What separates columns: one tab, one space, or any run of white space."
    )
    comments: bool = Field(False, description="Lines that begin with # and stand outside columns are comments.")


class TableSource(SourceConfig):
    """CSV or TSV, one example a row."""

    format: Literal["table"]
    text: Column = Field(description="Column of the text (the question, for extractive_qa).")
    text_pair: Column | None = Field(None, description="Column of the second text.")
    delimiter: Literal["tab", "comma", "semicolon"] | None = Field(
        None, description="Default: comma for .csv, tab for everything else."
    )
    quoting: bool | None = Field(
        None, description="Double quotes enclose fields. Default: yes with comma or semicolon, no with tab."
    )
    header: bool = Field(True, description="The first row names the columns; else they are numbered from 0.")
    extra_columns: bool = Field(
        False, description="Rows may have more columns than the header (or than the first row)."
    )
    pretokenized: bool = Field(False, description="Texts are words joined by spaces.")


class JsonlSource(SourceConfig):
    """JSON lines, one object an example; a text is a string or a list of words."""

    format: Literal["jsonl"]
    text: str = Field(description="Key of the text; a.b reaches into objects.")
    text_pair: str | None = Field(None, description="Key of the second text.")
    pretokenized: bool = Field(False, description="String texts are words joined by spaces.")
    sentences: bool = Field(False, description="Texts that are lists are sentences to join, not words.")


class ParquetSource(SourceConfig):
    """Parquet, one example a row; a text is a string or a list of words."""

    format: Literal["parquet"]
    text: str = Field(description="Column of the text.")
    text_pair: str | None = Field(None, description="Column of the second text.")
    pretokenized: bool = Field(False, description="String texts are words joined by spaces.")
    sentences: bool = Field(False, description="Texts that are lists are sentences to join, not words.")


class SquadSource(SourceConfig):
    """SQuAD v1.1 or v2.0 JSON. The label `answers` is the list of reference answers, empty when impossible."""

    format: Literal["squad"]


class HubSource(SourceConfig):
    """A Hugging Face dataset: a hub id or a `save_to_disk` folder; train, dev and test name its splits."""

    format: Literal["datasets"]
    path: str = Field(description="Hub id, or folder written by save_to_disk.")
    config: str | None = Field(None, description="Configuration of the hub dataset.")
    text: str = Field(description="Column of the text.")
    text_pair: str | None = Field(None, description="Column of the second text.")
    pretokenized: bool = Field(False, description="String texts are words joined by spaces.")
    sentences: bool = Field(False, description="Texts that are lists are sentences to join, not words.")


Source: TypeAlias = Annotated[
    ConlluSource | ColumnsSource | TableSource | JsonlSource | ParquetSource | SquadSource | HubSource,
    Field(discriminator="format"),
]


class TrainingConfig(Settings):
    """The loop."""

    epochs: int = Field(3, ge=1, description="Passes; an epoch draws as many examples as there are (see mixing).")
    batch_tokens: int = Field(512, ge=16, description="Most subwords, padding included, in one update.")
    accumulation: int = Field(1, ge=1, description="Parts that an update is computed in, to save memory.")
    learning_rate: float = Field(1e-4, gt=0, description="Peak rate of the trunk, after warm-up.")
    head_learning_rate: float = Field(
        1e-3, gt=0, description="Peak rate of the heads and of what is new in the trunk, such as adapters."
    )
    warmup: float = Field(0.1, ge=0, lt=1, description="Share of the updates in which the rate rises to its peak.")
    schedule: Literal["linear", "cosine", "constant"] = Field("linear", description="How the rate falls after warm-up.")
    weight_decay: float = Field(0.01, ge=0, description="AdamW's decay, on matrices only.")
    clip_norm: float = Field(1.0, gt=0, description="Largest norm of an update's gradient.")
    dropout: float = Field(0.1, ge=0, lt=1, description="Dropout in front of every head.")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="auto measures which of fp32 and bf16 this hardware runs faster."
    )
    evaluations_per_epoch: int = Field(1, ge=1, description="How often dev is measured and a candidate is kept.")
    dev_examples: int | None = Field(
        None,
        ge=1,
        description="Measure at most this many dev examples of each task during training, spread evenly: models that "
        "write are slow. The selected model is measured on all of them. Default: all.",
    )
    checkpoint_updates: int = Field(200, ge=1, description="Updates between checkpoints that --resume starts from.")
    select: str = Field(
        "mean_relative",
        description="Which evaluated model is kept: mean_relative (mean over tasks of the metric relative to its best "
        "over the run) or the name of a task.",
    )
    patience: int | None = Field(None, ge=1, description="Stop after this many evaluations without a better model.")
    seed: int = Field(13, ge=0, description="Seed of initial heads, order, dropout.")
    probes: int = Field(
        0,
        ge=0,
        description="How often to measure, evenly over the run, how the tasks' gradients on the trunk agree; "
        "8 cost less than a tenth of the training.",
    )


class MixingConfig(Settings):
    """Which example enters when: each task's rate of p_t = n_t^(1/T) / sum, or as the kind says."""

    kind: Literal["proportional", "uniform", "temperature", "annealed", "weights"] = Field(
        "proportional", description="Share of the draws that each task gets."
    )
    temperature: float = Field(2.0, ge=1, description="T of temperature mixing: 1 is proportional, large is uniform.")
    weights: dict[str, float] = Field(default_factory=dict, description="Share of each task, with kind weights.")

    @model_validator(mode="after")
    def _weights_go_with_their_kind(self) -> MixingConfig:
        if (self.kind == "weights") != bool(self.weights):
            raise ValueError("weights and kind: weights go together")
        if self.kind != "temperature" and self.temperature != MixingConfig.model_fields["temperature"].default:
            raise ValueError("temperature goes with kind: temperature")
        if any(weight <= 0 for weight in self.weights.values()):
            raise ValueError("every weight must be above 0")
        return self


class BalancingConfig(Settings):
    """How task losses become one update. So far: their sum, each times its task's static weight."""

    kind: Literal["equal"] = Field("equal", description="Static weights (tasks.*.weight), 1 by default.")


class WritingConfig(Settings):
    """How a model that writes text is decoded."""

    beams: int = Field(1, ge=1, description="Beams of the search; 1 is greedy.")
    constrained: bool = Field(
        True, description="Let only valid outputs of a kind be written, where it says which are (label sets, tags)."
    )
    longest: int | None = Field(
        None, ge=1, description="Most subwords written for an example. Default: by the task and its input."
    )


class PromptConfig(Settings):
    """The prompt of one task. What is left out is the kind's own."""

    instruction: str | None = Field(None, min_length=1, description="What is to be done.")
    input: str | None = Field(
        None,
        description="The input; {text}, {pair} and {input} (as the kind writes it) are filled in.",
    )


class PromptingConfig(Settings):
    """How a language model is asked."""

    shots: int = Field(0, ge=0, description="Training examples shown in front of the question; 0 is zero-shot.")
    selection: Literal["random", "balanced", "nearest"] = Field(
        "balanced",
        description="Which examples: random, as many of each label, or the nearest by the offline trunk's embedding.",
    )
    scoring: Literal["likelihood", "generation"] = Field(
        "likelihood", description="Closed label sets: the most probable label, or what the model writes."
    )
    calibrated: bool = Field(
        False, description="Divide likelihoods by those for a content-free input (Zhao et al. 2021)."
    )
    chat: bool | None = Field(None, description="Use the model's chat template. Default: where it has one.")
    prompts: dict[str, PromptConfig] = Field(default_factory=dict, description="Prompts of tasks.")


class LoraConfig(Settings):
    """Adapters that a language model is tuned by: low-rank additions to its layers (Hu et al. 2022, LoRA)."""

    rank: int = Field(8, ge=1, description="Width of an adapter.")
    alpha: float = Field(16, gt=0, description="What an adapter adds is multiplied by alpha / rank.")
    dropout: float = Field(0.05, ge=0, lt=1, description="Dropout in front of an adapter.")
    layers: tuple[str, ...] = Field(
        (),
        description="Names of the linear layers that are adapted, e.g. [q_proj, v_proj]. "
        "Default: all of them but the output.",
    )
    adapters: Literal["shared", "per_task"] = Field("shared", description="One for all tasks, or one for each.")


class EndpointConfig(Settings):
    """A remote language model behind an OpenAI-compatible endpoint."""

    base_url: str = Field(min_length=1, description="E.g. http://127.0.0.1:8080/v1")
    model: str = Field(min_length=1, description="The model's name there.")
    key_variable: str = Field("OPENAI_API_KEY", description="Environment variable that holds the key.")
    token_budget: int = Field(
        ge=1,
        description="Most tokens, of prompts and answers, that may be paid for by all that keep their answers in one "
        "file (cache): all runs of a study, all uses of a run.",
    )
    requests_per_minute: float | None = Field(None, gt=0, description="Default: as fast as answers come.")
    concurrency: int = Field(4, ge=1, description="Requests at once.")
    timeout: float = Field(60, gt=0, description="Seconds for one answer.")
    retries: int = Field(5, ge=0, description="Further attempts after a failure that may pass.")
    cache: str | None = Field(
        None,
        description="File that keeps answers, so that none is paid for twice, and counts what is spent. Default: "
        "answers.sqlite in the folder of the study, or of the run.",
    )
    input_price: float | None = Field(None, ge=0, description="Money for a million prompt tokens.")
    output_price: float | None = Field(None, ge=0, description="Money for a million written tokens.")
    currency: str = Field("USD", description="Of the prices.")

    def money(self, prompt_tokens: float, written_tokens: float) -> float | None:
        """What tokens cost; None unless both prices are configured."""
        if self.input_price is None or self.output_price is None:
            return None
        return (prompt_tokens * self.input_price + written_tokens * self.output_price) / 1e6


# How a remote model is reached and paid, and where its answers are kept: nothing of this changes what it answers.
ENDPOINT_MEANS = EndpointConfig.model_fields.keys() - {"base_url", "model"}


class _Places:
    """Where a configuration was written: its file, and the lines of its keys."""

    def __init__(self, path: Path | None = None, node: yaml.Node | None = None, overrides: Sequence[str] = ()) -> None:
        self.path = path
        self.node = node
        self.overrides = overrides

    def __eq__(self, other: object) -> bool:
        """Two configurations that say the same are equal, wherever each was written."""
        return isinstance(other, _Places)

    __hash__ = None  # type: ignore[assignment]

    def where(self, location: tuple[str | int, ...]) -> str:
        """`file:line: key.path` of a key, or the override that set it."""
        keys, line = _locate(self.node, location)
        place = re.sub(r"\[(\d+)\]", r".\1", keys) + "."
        setter = next((o for o in reversed(self.overrides) if place.startswith(o.partition("=")[0] + ".")), None)
        where = f"{self.path}:{line}: " if self.path is not None else ""
        where = f"--set {setter}: " if setter is not None else where
        return f"{where}{keys or 'config'}"


# Settings that only some families read.
_FAMILIES = {
    "writing": ("text2text", "causal_lm"),
    "prompting": ("causal_lm",),
    "lora": ("causal_lm",),
    "endpoint": ("causal_lm",),
}


class Config(Settings):
    """A run: tasks, where their labels come from, and how one model learns them."""

    family: Literal["heads", "text2text", "causal_lm"] = Field(
        "heads",
        description="heads: a head per task on a shared trunk; text2text: an encoder-decoder writes every answer; "
        "causal_lm: a language model is asked, or tuned by adapters (lora).",
    )
    language: str = Field("en", description="Language of raw texts, for finding words (a spaCy language code).")
    trunk: TrunkConfig = Field(default_factory=TrunkConfig, description="A name, or {name, layers}.")
    tasks: dict[str, TaskConfig] = Field(min_length=1)
    sources: list[Source] = Field(min_length=1)
    training: TrainingConfig = Field(default_factory=TrainingConfig)
    mixing: MixingConfig = Field(default_factory=MixingConfig)
    balancing: BalancingConfig = Field(default_factory=BalancingConfig)
    writing: WritingConfig = Field(default_factory=WritingConfig, description="Families text2text and causal_lm.")
    prompting: PromptingConfig = Field(default_factory=PromptingConfig, description="Family causal_lm.")
    lora: LoraConfig | None = Field(None, description="Family causal_lm: train adapters; {} for the defaults.")
    endpoint: EndpointConfig | None = Field(None, description="Family causal_lm: ask a remote model.")
    families: dict[Literal["text2text", "causal_lm"], dict[str, Any]] = Field(
        default_factory=dict,
        description="For studies: settings (trunk, training, writing, prompting, ...) in place of those above where "
        "a regime of another family runs.",
    )
    baseline: dict[str, float] = Field(
        default_factory=dict,
        description="Dev values of tasks' metrics, e.g. of single-task runs: an alarm tells of a task that is below.",
    )
    withhold_leaks: bool = Field(
        True, description="Keep texts of one source's train that are in another source's test out of training."
    )

    _places: _Places = PrivateAttr(default_factory=_Places)

    def where(self, *location: str | int) -> str:
        """Where a key stands, for messages: `tasks.yaml:7: tasks.ner.metric`; the key path alone if built in Python."""
        return self._places.where(location)

    @property
    def is_trained(self) -> bool:
        """Whether anything learns; else a language model is asked as it is."""
        return self.family != "causal_lm" or self.lora is not None

    @model_validator(mode="before")
    @classmethod
    def _trunk_may_be_a_name(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("trunk"), str):
            data = data | {"trunk": {"name": data["trunk"]}}
        if isinstance(data, dict) and data.get("family") == "causal_lm" and isinstance(data.get("trunk", {}), dict):
            data = data | {"trunk": {"name": LANGUAGE_MODEL} | data.get("trunk", {})}
        return data

    @model_validator(mode="after")
    def _tasks_and_sources_fit(self) -> Config:
        labelled: set[str] = set()
        for number, source in enumerate(self.sources):
            for task in source.labels:
                if task not in self.tasks:
                    raise _located(("sources", number, "labels", task), f"no task {task!r} is declared under tasks")
            labelled |= source.labels.keys()
        for task in self.tasks:
            if not re.fullmatch(r"[A-Za-z][\w-]*", task):
                raise _located(("tasks", task), "a task's name is a letter, then letters, digits, - or _")
            if task not in labelled:
                raise _located(("tasks", task), "no source labels it")
        for task in sorted(self.mixing.weights.keys() ^ self.tasks.keys()) if self.mixing.weights else ():
            raise _located(("mixing", "weights"), f"weights must name exactly the tasks; {task!r} is not in both")
        for task in sorted(self.baseline.keys() - self.tasks.keys()):
            raise _located(("baseline", task), f"no task {task!r} is declared under tasks")
        self._check_family()
        if self.training.probes and self.trunk.frozen:
            raise _located(("training", "probes"), "a frozen trunk has no gradients to compare")
        if self.training.select not in {"mean_relative", *self.tasks}:
            raise _located(("training", "select"), f"neither mean_relative nor a task: {self.training.select!r}")
        return self

    def in_family(self, family: Literal["text2text", "causal_lm"], **changes: Any) -> Config:
        """The same tasks and sources for another family, with the settings that `families` gives it.

        Args:
            family: which.
            **changes: further settings, stronger than those of `families`; mappings are merged.

        Raises:
            ConfigError: they do not fit.
        """
        data: dict[str, Any] = self.model_dump(
            mode="json", exclude_none=True, exclude={"families", "trunk", "baseline", *_FAMILIES}
        )
        data |= {"family": family}
        data["training"].pop("probes", None)  # of gradients on a trunk
        for layer in (self.families.get(family, {}), changes):
            for key, value in layer.items():
                merged = isinstance(value, dict) and isinstance(data.get(key), dict)
                data[key] = {**data[key], **value} if merged else value
        return Config.parse(data)

    def _check_family(self) -> None:
        """Settings of one family say nothing to another."""
        for setting, families in _FAMILIES.items():
            default = Config.model_fields[setting].get_default(call_default_factory=True)
            if self.family not in families and getattr(self, setting) != default:
                raise _located((setting,), f"goes with family: {' or '.join(families)}")
        if self.lora is not None and self.endpoint is not None:
            raise _located(("lora",), "a remote model cannot be tuned: leave out endpoint, or lora")
        for family in self.families:
            try:
                self.in_family(family)
            except ConfigError as error:
                raise _located(("families", family), str(error)) from error
        if self.training.probes and self.family != "heads":
            raise _located(("training", "probes"), "goes with family: heads")
        for task in sorted(self.prompting.prompts.keys() - self.tasks.keys()):
            raise _located(("prompting", "prompts", task), f"no task {task!r} is declared under tasks")
        for setting in ("layers", "casing", "frozen", "heads") if self.family != "heads" else ():
            if getattr(self.trunk, setting) not in (None, False, "new"):
                raise _located(("trunk", setting), "goes with family: heads")

    @classmethod
    def load(cls, path: str | Path, overrides: list[str] | None = None) -> Config:
        """Read a YAML file; relative data paths become relative to that file, `${VAR:-default}` is expanded.

        Args:
            path: the file.
            overrides: `key.path=value` settings that win over the file's (values are YAML).

        Raises:
            ConfigError: naming the file, line and key path of what is wrong.
        """
        path = Path(path)
        try:
            content = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: cannot be read: {error}") from error
        try:
            node = yaml.compose(content, Loader=yaml.SafeLoader)
            data = yaml.safe_load(content)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            where = f"{path}:{mark.line + 1}" if mark is not None else str(path)
            raise ConfigError(f"{where}: not YAML: {getattr(error, 'problem', None) or error}") from error
        except (RecursionError, ValueError) as error:  # an alias within itself; a number of thousands of digits
            raise ConfigError(f"{path}: not a configuration: {error}") from error
        if not isinstance(data, dict):
            raise ConfigError(f"{path}:1: expected a mapping with tasks and sources, found {type(data).__name__}")
        try:
            _refuse_duplicate_keys(node, path)
        except RecursionError as error:
            raise ConfigError(f"{path}: an alias (*) stands within what it names") from error
        for override in overrides or []:
            _override(data, override)
        try:
            _resolve_paths(data, path.parent)
        except _LocatedError as error:
            keys, line = _locate(node, error.location)
            raise ConfigError(f"{path}:{line}: {keys}: {error}") from error
        return cls._validate(data, path, node, overrides or [])

    @classmethod
    def parse(cls, data: dict[str, Any]) -> Config:
        """Validate a configuration built in Python; data paths stay relative to the working directory.

        Raises:
            ConfigError: naming the key path of what is wrong.
        """
        return cls._validate(data, None, None, [])

    @classmethod
    def _validate(cls, data: dict[str, Any], path: Path | None, node: yaml.Node | None, overrides: list[str]) -> Config:
        places = _Places(path, node, overrides)
        try:
            config = cls.model_validate(data)
        except ValidationError as error:
            raise ConfigError(_explain(error, places)) from error
        config._places = places  # noqa: SLF001 - its own class
        return config

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """JSON Schema of what `load` accepts, for editors."""
        schema = cls.model_json_schema()
        described = schema["properties"]["trunk"]
        schema["properties"]["trunk"] = {
            "description": described.get("description", ""),
            "anyOf": [{"type": "string"}, {"$ref": "#/$defs/TrunkConfig"}],
        }
        return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "Palmette"}

    def dump(self) -> str:
        """The resolved configuration as YAML, paths absolute: `Config.load` of it, from anywhere, means the same."""
        return self._dump({})

    def identity(self) -> str:
        """What of `dump` a run's results depend on: without settings of other runs, and of a remote model's budget."""
        return self._dump({"families": True, "endpoint": ENDPOINT_MEANS})

    def _dump(self, without: Mapping[str, Any]) -> str:
        foreign = {setting: True for setting, families in _FAMILIES.items() if self.family not in families}
        data = self.model_dump(mode="json", exclude_none=True, exclude={**without, **foreign})
        _resolve_paths(data, Path.cwd())
        return yaml.safe_dump(data, sort_keys=False, allow_unicode=True)


class _LocatedError(ValueError):
    """An error of a whole-config check that knows which key it is about."""

    def __init__(self, location: tuple[str | int, ...], message: str) -> None:
        super().__init__(message)
        self.location = location


def _located(location: tuple[str | int, ...], message: str) -> _LocatedError:
    return _LocatedError(location, message)


def _explain(error: ValidationError, places: _Places) -> str:
    """One line for each problem: file:line (or the override), key path, what is wrong, what was found."""
    lines = []
    for problem in error.errors(include_url=False):
        location: tuple[str | int, ...] = problem["loc"]
        message = problem["msg"].removeprefix("Value error, ")
        cause = problem.get("ctx", {}).get("error")
        if isinstance(cause, _LocatedError):
            location = (*location, *cause.location)
        if problem["type"] == "extra_forbidden":
            message = "unknown key"
        elif problem["type"] == "missing":
            message = "required, but missing"
        elif problem["type"].startswith("union_tag"):
            message = f"format is missing or unknown; known: {', '.join(_FORMATS)}"
        elif problem["type"] == "model_type":
            message = f"expected a mapping, found {problem['input']!r}"
        elif not isinstance(problem["input"], dict | list):
            message = f"{message}; found {problem['input']!r}"
        lines.append(f"{places.where(location)}: {message}")
    return "\n".join(dict.fromkeys(lines))


_FORMATS = ("conllu", "columns", "table", "jsonl", "parquet", "squad", "datasets")


def _written(location: tuple[str | int, ...]) -> list[str | int]:
    """A location without the members of unions that pydantic names in it and the user did not write."""
    formatted = location[:1] == ("sources",) and location[2:3] and location[2] in _FORMATS
    parts = [*location[:2], *location[3:]] if formatted else list(location)
    return [part for part in parts if not (isinstance(part, str) and part[:1] in "<[")]


def _locate(node: yaml.Node | None, location: tuple[str | int, ...]) -> tuple[str, int]:
    """The key path that the user wrote, and the line of its deepest key present in the YAML."""
    keys, line = "", 1 if node is None else node.start_mark.line + 1
    for part in _written(location):
        if isinstance(node, yaml.MappingNode):
            found = next(((k, v) for k, v in node.value if k.value == str(part)), None)
            node = None
            if found is not None:
                line, node = found[0].start_mark.line + 1, found[1]
            keys += f".{part}" if keys else str(part)
        elif isinstance(part, int):
            node = node.value[part] if isinstance(node, yaml.SequenceNode) and part < len(node.value) else None
            line = line if node is None else node.start_mark.line + 1
            keys += f"[{part}]"
        else:
            node = None
            keys += f".{part}" if keys else part
    return keys, line


def _refuse_duplicate_keys(node: yaml.Node | None, path: Path) -> None:
    """YAML readers keep the last of two equal keys; a lost task or source would be lost in silence."""
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if key.value in seen:
                raise ConfigError(f"{path}:{line}: {key.value}: given twice, first on line {seen[key.value]}")
            seen[key.value] = line
            _refuse_duplicate_keys(value, path)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _refuse_duplicate_keys(value, path)


def _override(data: dict[str, Any], override: str) -> None:
    """Apply one `key.path=value`."""
    key, parsed = read_override(override, example="training.epochs=3")
    *parents, last = key.split(".")
    target: Any = data
    for depth, parent in enumerate(parents):
        if isinstance(target, list) and parent.isdigit() and int(parent) < len(target):
            target = target[int(parent)]
            continue
        if isinstance(target, dict) and isinstance(target.get(parent), str) and depth == 0 and parent == "trunk":
            target[parent] = {"name": target[parent]}
        if not isinstance(target, dict) or not isinstance(target.setdefault(parent, {}), dict | list):
            raise ConfigError(f"--set {override}: {'.'.join(parents[: depth + 1])} is not a mapping")
        target = target[parent]
    if isinstance(target, list) and last.isdigit() and int(last) < len(target):
        target[int(last)] = parsed
    elif isinstance(target, dict):
        target[last] = parsed
    else:
        raise ConfigError(f"--set {override}: no such key")


_VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")


def _resolve_paths(data: dict[str, Any], folder: Path) -> None:
    """Make paths (of sources, a trunk, an endpoint's cache) absolute or relative to the working directory."""
    sources = data.get("sources")
    for number, source in enumerate(sources if isinstance(sources, list) else []):
        if not isinstance(source, dict):
            continue
        keys = ("path",) if source.get("format") == "datasets" else SPLITS
        for key in keys:
            value = source.get(key)
            place = ("sources", number, key)
            if isinstance(value, str):
                resolved = _resolve(value, folder, place)
                hub_id = key == "path" and _VARIABLE.search(value) is None and not Path(resolved).exists()
                source[key] = value if hub_id else resolved
            elif isinstance(value, list):
                source[key] = [
                    _resolve(item, folder, (*place, n)) if isinstance(item, str) else item
                    for n, item in enumerate(value)
                ]
    trunk = data.get("trunk")
    name = trunk.get("name") if isinstance(trunk, dict) else trunk
    # config.json: a folder of transformers; config.yaml: a run.
    if isinstance(name, str) and any((folder / name / file).exists() for file in ("config.json", "config.yaml")):
        data["trunk"] = (trunk if isinstance(trunk, dict) else {}) | {"name": str(folder / name)}
    endpoint = data.get("endpoint")
    if isinstance(endpoint, dict) and isinstance(endpoint.get("cache"), str):
        data["endpoint"] = endpoint | {"cache": _resolve(endpoint["cache"], folder, ("endpoint", "cache"))}
    families = data.get("families")
    for settings in families.values() if isinstance(families, dict) else ():
        if isinstance(settings, dict):
            _resolve_paths(settings, folder)


def _resolve(value: str, folder: Path, location: tuple[str | int, ...]) -> str:
    """Expand `${VAR:-default}`; a path that begins with a set variable is the caller's, not the config file's."""
    callers = False

    def expand(match: re.Match[str]) -> str:
        nonlocal callers
        name, default = match.groups()
        if name in os.environ:
            callers = callers or match.start() == 0
            return os.environ[name]
        if default is None:
            raise _located(location, f"{value}: the environment variable {name} is not set")
        return str(default)

    path = Path(_VARIABLE.sub(expand, value))
    return str(path if callers or path.is_absolute() else folder / path)
