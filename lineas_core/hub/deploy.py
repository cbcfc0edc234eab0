"""Upload a prepared folder as a Hugging Face Space, with its hardware and its storage bucket."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import HfApi, SpaceHardware, Volume

from lineas_core.hub.errors import HubError, check_repository, hub_errors
from lineas_core.hub.space import has_gpu
from lineas_core.system.home import SPACE_STORAGE


def upload_space(
    folder: Path,
    repo_id: str,
    *,
    token: str | None,
    private: bool = False,
    demo: bool = False,
    hardware: SpaceHardware | None = None,
    bucket: str = "",
    endpoint: str | None = None,
) -> str:
    """Upload a prepared folder as a Space, creating the Space if needed.

    Files of the Space that are not in the folder are deleted.

    Args:
        folder: from `prepare_space`.
        repo_id: USER/SPACE.
        token: of the user's login, with write permission.
        private: make a new Space private; an existing one keeps its setting.
        demo: limit what visitors may do (DEMO_MODE=1).
        hardware: that the folder was prepared for; by default an existing Space keeps its own, and
            a new one gets the Hub's, which has no GPU.
        bucket: NAME or USER/NAME of the storage bucket that keeps what is made in the Space,
            created if needed; an existing Space keeps its own.
        endpoint: URL of a hub other than huggingface.co.

    Returns:
        The Space's URL.

    Raises:
        HubError: there is no login, no permission or no network; the Space has a GPU and `hardware`
            is not given; the bucket is public; or the Space has another one.
    """
    if not token:
        raise HubError("Nobody is logged in. Log in with `hf auth login`.")
    check_repository(repo_id)
    bucket_id = bucket if "/" in bucket or not bucket else f"{repo_id.split('/')[0]}/{bucket}"
    if bucket_id:
        check_repository(bucket_id)
    api = HfApi(endpoint=endpoint, token=token)
    with hub_errors(repo_id):
        url = api.create_repo(
            repo_id,
            repo_type="space",
            space_sdk="gradio",
            space_hardware=hardware,
            private=private,
            exist_ok=True,
        )
        runtime = api.get_space_runtime(repo_id)
        current = runtime.requested_hardware or runtime.hardware
        if hardware is None and has_gpu(current):
            raise HubError(
                f"{repo_id} has the hardware {current}, and these files are for a CPU. Deploy "
                f"with --hardware {current}."
            )
        # Set all this before the upload, so that the Space already has it when it first starts.
        if bucket_id:
            _attach(api, repo_id, bucket_id, runtime.volumes or [])
        api.add_space_variable(repo_id, "DEMO_MODE", "1" if demo else "0")
        api.upload_folder(
            repo_id=repo_id,
            repo_type="space",
            folder_path=folder,
            commit_message="Deploy LinEAS Studio",
            delete_patterns="*",
        )
        # An earlier request would restart the old files on the new hardware.
        if hardware is not None and hardware != current:
            api.request_space_hardware(repo_id, hardware)
    return str(url)


def _attach(api: HfApi, repo_id: str, bucket_id: str, volumes: Sequence[Volume]) -> None:
    """Create the bucket if needed, and mount it where the app looks for it."""
    path = SPACE_STORAGE.as_posix()
    there = next((volume for volume in volumes if volume.mount_path == path), None)
    if there is not None and (there.type, there.source) != ("bucket", bucket_id):
        raise HubError(
            f"{repo_id} has {there.source} mounted on {path}, and would no longer find what is "
            f"kept there in {bucket_id}. Deploy without --bucket, or detach it in the Space's "
            "settings first."
        )
    with hub_errors(bucket_id):
        api.create_bucket(bucket_id, private=True, exist_ok=True)
        if not api.bucket_info(bucket_id).private:
            raise HubError(
                f"The bucket {bucket_id} is public, so that everyone could read what visitors "
                "make. Choose another, or make it private in its settings."
            )
    if there is None:
        mounted = Volume(type="bucket", source=bucket_id, mount_path=path)
        api.set_space_volumes(repo_id, [*volumes, mounted])
