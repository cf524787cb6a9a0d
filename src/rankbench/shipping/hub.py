"""An export on the Hugging Face hub: fit for readers elsewhere, and uploaded when a person asks for it."""

from __future__ import annotations

import argparse
import dataclasses
import re
import shlex
from pathlib import Path
from typing import Any

from rankbench.errors import RequestError
from rankbench.shipping.base import Base
from rankbench.system.network import reachable


def add_options(parser: argparse.ArgumentParser) -> None:
    """What a command line that writes a folder may say of the hub: --base, --push and who sees it."""
    parser.add_argument("--base", metavar="OWNER/NAME[@REVISION]", help="what the hub calls the run's backbone")
    parser.add_argument("--push", metavar="OWNER/NAME", help="upload the folder to this model repository of the hub")
    seen = parser.add_mutually_exclusive_group()
    seen.add_argument("--private", action="store_true", help="--push: a new repository is private (the default)")
    seen.add_argument("--public", action="store_true", help="--push: a new repository is public")


def check_options(asked: argparse.Namespace) -> None:
    """Refuse what cannot be done, before anything is read. Raises RequestError."""
    if (asked.private or asked.public) and not asked.push:
        raise RequestError("--private and --public say who sees what --push uploads; give --push OWNER/NAME")
    if asked.to is None and (asked.push or asked.base or asked.merge):
        raise RequestError("--merge, --base and --push say what becomes of the folder that --to writes; give --to DIR")
    if asked.push is not None:
        check_name(asked.push, "--push")


def check_name(name: str, option: str) -> None:
    """Refuse what cannot be a repository of the hub. Raises RequestError."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    why = ""
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        why = f" ({str(error).splitlines()[0]})"
    if why or name.count("/") != 1:
        raise RequestError(f"{option} {name!r} is no name of a repository{why}; give OWNER/NAME, such as me/my-adapter")


def as_named(base: Base, given: str | None, pushed: bool, whole: bool) -> Base:
    """The base as a folder names it: by the id that the user gives, and fit for others where it is pushed.

    Raises RequestError as `named` and `fit` do.
    """
    own = named(base, given)
    return fit(own, whole) if pushed else own


def named(base: Base, given: str | None) -> Base:
    """The base under the hub's id that the user gives, as OWNER/NAME or OWNER/NAME@REVISION. Raises RequestError."""
    if given is None:
        return base
    name, _, revision = given.partition("@")
    check_name(name, "--base")
    if base.name is None:
        raise RequestError(f"--base {given}: the base is random weights, which no hub has; leave it out")
    if base.revision and base.name != name:
        raise RequestError(f"--base {given}: the run's base is {base.name}, known by its content; leave it out")
    return dataclasses.replace(
        base, name=name, revision=revision or base.revision or "main", here=base.here or base.name
    )


def fit(base: Base, whole: bool) -> Base:
    """The base as it may be named where this machine's folders mean nothing.

    Raises RequestError for an adapter over a base whose id on the hub is not known: nobody could load it.
    """
    fitting = dataclasses.replace(base, portable=True)
    if base.revision or (whole and base.name is None):
        return fitting
    if whole:
        return dataclasses.replace(fitting, name=Path(str(base.name)).name)
    what = "random weights drawn here" if base.name is None else f"{base.name}, a place on this machine"
    ways = (
        "--merge pushes a whole model"
        if base.name is None
        else "--base OWNER/NAME says it, or --merge pushes a whole model"
    )
    raise RequestError(f"--push: the adapter's base is {what}, whose id on the hub is not known; {ways}")


def without_places(command: str) -> str:
    """A command line with the last part of each folder in place of where it lies on this machine."""
    words = [re.sub(r"^([\w.+@/-]+=)?[/~].*/(?=.)", r"\1", word) for word in shlex.split(command)]
    return shlex.join(words)


def push(folder: Path, name: str, public: bool = False) -> str:
    """Upload all files of a folder to the hub's model repository `name`; returns what to say of it.

    A repository that is not there yet is made, private unless `public`; another keeps its visibility and its other
    files. Raises RequestError where the hub does not take it; the folder stays as it is.
    """
    from huggingface_hub import HfApi, constants, get_token
    from huggingface_hub.errors import HfHubHTTPError

    files = sorted(file for file in folder.rglob("*") if file.is_file())
    try:
        if constants.HF_HUB_OFFLINE:
            raise RequestError("HF_HUB_OFFLINE is set; unset it")
        if not get_token():
            raise RequestError("this machine has no token of the hub; `hf auth login` keeps one, or set HF_TOKEN")
        if not reachable(constants.ENDPOINT):
            raise RequestError(f"{constants.ENDPOINT} cannot be reached; look at the network")
        api = HfApi()
        api.create_repo(name, private=not public, exist_ok=True)
        there = api.model_info(name)
        if not there.private and not public:
            raise RequestError(f"{name} is there already and public; --public uploads to it all the same")
        done: Any = api.upload_folder(repo_id=name, folder_path=folder, commit_message=f"Upload {folder.name}")
    except RequestError as error:
        raise _not_pushed(folder, name, public, str(error)) from error
    except HfHubHTTPError as error:
        raise _not_pushed(folder, name, public, _answered(error, name)) from error
    except Exception as error:  # the hub client's other failures share no base class
        raise _not_pushed(folder, name, public, (str(error).strip() or repr(error)).splitlines()[0]) from error
    size = sum(file.stat().st_size for file in files) / 1e6
    kind = "private" if there.private else "public"
    said = f"pushed to {constants.ENDPOINT}/{name} ({kind}): {len(files)} files, {size:.1f} MB, commit {done.oid[:12]}"
    ours = {file.relative_to(folder).as_posix() for file in files} | {".gitattributes"}
    kept = sorted({file.rfilename for file in there.siblings or ()} - ours)
    return said + (
        f"; {', '.join(kept[:3])}{' and others' if kept[3:] else ''} were there before and stay" if kept else ""
    )


def _answered(error: Any, name: str) -> str:
    """What the hub said to a request that it refused, and what to do about it."""
    code = error.response.status_code
    mends = {
        401: "the hub does not know this machine's token; `hf auth login` keeps a new one",
        403: f"the token may not write to {name}; use one with write access, or another name",
        404: f"there is no {name} that the token may see; look at the name",
        409: f"another change to {name} is under way; try again",
    }
    said = (error.server_message or "").strip().splitlines()
    return f"{mends.get(code, 'the hub refused it')} (HTTP {code}{f': {said[0]}' if said else ''})"


def _not_pushed(folder: Path, name: str, public: bool, why: str) -> RequestError:
    kind = "" if public else " --private"
    return RequestError(
        f"--push {name}: {why}. The export is whole in {folder}; to upload it later: "
        f"hf upload {name} {shlex.quote(str(folder))} .{kind}"
    )
