"""A PAGODA_HOME of one's own on the session's servers: other rooms' bundles stay out of it."""

from __future__ import annotations

from pathlib import Path

from pydantic import SecretStr

from pagoda.settings import Settings


def own_home(settings: Settings, folder: Path) -> Settings:
    """Settings with an empty home, the same servers, and an alias of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    milvus = {
        "alias": f"alias_{folder.name.replace('-', '_')}",
        "password": SecretStr(settings.milvus_password()),
    }
    redis = {"password": SecretStr(settings.redis_password())}
    return settings.model_copy(
        update={
            "home": folder,
            "milvus": settings.milvus.model_copy(update=milvus),
            "redis": settings.redis.model_copy(update=redis),
        }
    )


def environment(settings: Settings) -> dict[str, str]:
    """The same for a process of its own."""
    return {
        "PAGODA_HOME": str(settings.home),
        "PAGODA_MILVUS__URI": settings.milvus.uri,
        "PAGODA_MILVUS__ALIAS": settings.milvus.alias,
        "PAGODA_MILVUS__PASSWORD": settings.milvus_password(),
        "PAGODA_REDIS__PORT": str(settings.redis.port),
        "PAGODA_REDIS__PASSWORD": settings.redis_password(),
        "PAGODA_SERVING__PORT": str(settings.serving.port),
    }


def quiet(what: str, done: int, of: int) -> None:
    """No progress."""
