"""The keys that R2R knows, and a lint of its configuration against them.

R2R drops a key that it does not know without a word, so a slip of the pen never fails there. The
table is of R2R 3.6.6: the fields of the classes in core/base/providers/*.py, core/base/agent/
agent.py, shared/abstractions/{llm,graph,document,search,vector}.py and, for what ingestion takes
besides, core/providers/ingestion/{r2r,unstructured}/base.py.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

VERSION = "3.6.6"


class Each:
    """A table whose keys a person chooses, with values of one kind."""

    def __init__(self, kind: Any) -> None:
        self.kind = kind


FREE: Mapping[str, Any] = {}  # a table that R2R passes on to others as it is
_NUMBER = (int, float)
_GENERATION = {
    **dict.fromkeys(("model", "api_base", "reasoning_effort"), str),
    **dict.fromkeys(("temperature", "top_p"), _NUMBER),
    **dict.fromkeys(("max_tokens_to_sample", "thinking_budget"), int),
    **dict.fromkeys(("stream", "extended_thinking"), bool),
    **dict.fromkeys(("functions", "tools"), list),
    **dict.fromkeys(("add_generation_kwargs", "response_format"), FREE),
}
_LIMITS = dict.fromkeys(("global_per_min", "route_per_min", "monthly_limit"), int)
_RETRIES = {
    "max_retries": int,
    "initial_backoff": _NUMBER,
    "max_backoff": _NUMBER,
    "concurrent_request_limit": int,
}
_EMBEDDING = {
    **dict.fromkeys(("provider", "base_model", "rerank_model", "rerank_url"), str),
    "base_dimension": _NUMBER,
    "batch_size": int,
    **_RETRIES,
    "quantization_settings": {"quantization_type": str},
}
_POSTGRES = {
    **dict.fromkeys(("checkpoint_completion_target", "random_page_cost"), _NUMBER),
    "huge_pages": str,
    **dict.fromkeys(
        (
            *("default_statistics_target", "effective_io_concurrency", "effective_cache_size"),
            *("maintenance_work_mem", "max_connections", "max_parallel_workers_per_gather"),
            *("max_parallel_workers", "max_parallel_maintenance_workers", "max_wal_size"),
            *("max_worker_processes", "min_wal_size", "shared_buffers", "statement_cache_size"),
            *("wal_buffers", "work_mem"),
        ),
        int,
    ),
}
_UNSTRUCTURED = {
    **dict.fromkeys(
        (
            *("combine_under_n_chars", "max_characters", "new_after_n_chars", "overlap"),
            *("split_pdf_concurrency_level", "starting_page_number"),
        ),
        int,
    ),
    **dict.fromkeys(
        ("encoding", "gz_uncompressed_content_type", "hi_res_model_name", "strategy"), str
    ),
    **dict.fromkeys(
        ("extract_image_block_types", "languages", "ocr_languages", "skip_infer_table_types"), list
    ),
    **dict.fromkeys(
        (
            *("coordinates", "include_orig_elements", "include_page_breaks", "multipage_sections"),
            *("overlap_all", "pdf_infer_table_structure", "split_pdf_page", "unique_element_ids"),
            "xml_keep_tags",
        ),
        bool,
    ),
    "similarity_threshold": _NUMBER,
}

KEYS: Mapping[str, Any] = {
    "app": {
        **dict.fromkeys(
            (
                *("project_name", "user_tools_path", "quality_llm", "fast_llm", "vlm"),
                *("audio_lm", "reasoning_llm", "planning_llm"),
            ),
            str,
        ),
        **dict.fromkeys(
            (
                *("default_max_documents_per_user", "default_max_chunks_per_user"),
                *("default_max_collections_per_user", "default_max_upload_size"),
            ),
            int,
        ),
        "max_upload_size_by_type": Each(int),
    },
    "agent": {
        **dict.fromkeys(("rag_rag_agent_static_prompt", "rag_agent_dynamic_prompt"), str),
        **dict.fromkeys(("stream", "include_tools"), bool),
        "max_iterations": int,
        **dict.fromkeys(("rag_tools", "research_tools"), list),
    },
    "auth": {
        **dict.fromkeys(
            ("provider", "secret_key", "default_admin_email", "default_admin_password"), str
        ),
        **dict.fromkeys(("require_authentication", "require_email_verification"), bool),
        **dict.fromkeys(
            ("access_token_lifetime_in_minutes", "refresh_token_lifetime_in_days"), int
        ),
    },
    "completion": {
        "provider": str,
        **_RETRIES,
        "request_timeout": _NUMBER,
        "generation_config": _GENERATION,
    },
    "completion_embedding": _EMBEDDING,
    "crypto": {"provider": str},
    "database": {
        **dict.fromkeys(
            (
                *("provider", "user", "password", "host", "db_name", "project_name"),
                *("default_collection_name", "default_collection_description"),
                *("collection_summary_system_prompt", "collection_summary_prompt"),
                "graph_search_results_store_path",
            ),
            str,
        ),
        **dict.fromkeys(("port", "batch_size"), int),
        "disable_create_extension": bool,
        "postgres_configuration_settings": _POSTGRES,
        "graph_creation_settings": {
            **dict.fromkeys(("graph_extraction_prompt", "graph_entity_description_prompt"), str),
            **dict.fromkeys(("entity_types", "relation_types"), list),
            **dict.fromkeys(
                (
                    *("chunk_merge_count", "max_knowledge_relationships"),
                    "max_description_input_length",
                ),
                int,
            ),
            "automatic_deduplication": bool,
            "generation_config": _GENERATION,
        },
        "graph_enrichment_settings": {
            "force_graph_search_results_enrichment": bool,
            "graph_communities_prompt": str,
            "max_summary_input_length": int,
            "leiden_params": FREE,
            "generation_config": _GENERATION,
        },
        "graph_search_settings": {"enabled": bool, "limits": Each(int)},
        "limits": _LIMITS,
        "route_limits": Each(_LIMITS),
        "user_limits": Each(_LIMITS),
        "maintenance": {"vacuum_schedule": str, "vacuum_analyze": bool, "vacuum_full": bool},
    },
    "email": {
        **dict.fromkeys(
            (
                *("provider", "smtp_server", "smtp_username", "smtp_password", "from_email"),
                *("sendgrid_api_key", "mailersend_api_key", "verify_email_template_id"),
                *("reset_password_template_id", "password_changed_template_id"),
                *("frontend_url", "sender_name"),
            ),
            str,
        ),
        "smtp_port": int,
        "use_tls": bool,
    },
    "embedding": _EMBEDDING,
    "file": dict.fromkeys(
        (
            *("provider", "bucket_name", "aws_access_key_id", "aws_secret_access_key"),
            *("region_name", "endpoint_url"),
        ),
        str,
    ),
    "ingestion": {
        **dict.fromkeys(
            (
                *("provider", "chunking_strategy", "audio_transcription_model", "vlm"),
                *("document_summary_system_prompt", "document_summary_task_prompt"),
                *("document_summary_model", "separator"),
            ),
            str,
        ),
        **dict.fromkeys(
            (
                *("chunk_size", "chunk_overlap", "vlm_batch_size", "vlm_max_tokens_to_sample"),
                *("max_concurrent_vlm_tasks", "document_summary_max_length"),
                "chunks_for_document_summary",
            ),
            int,
        ),
        **dict.fromkeys(
            ("vlm_ocr_one_page_per_chunk", "skip_document_summary", "automatic_extraction"), bool
        ),
        "excluded_parsers": list,
        "extra_parsers": FREE,
        "parser_overrides": Each(str),
        "chunk_enrichment_settings": {
            "enable_chunk_enrichment": bool,
            "n_chunks": int,
            "chunk_enrichment_prompt": str,
            "generation_config": _GENERATION,
        },
        **_UNSTRUCTURED,
    },
    "ocr": {"provider": str, "model": str, **_RETRIES},
    "orchestration": {
        "provider": str,
        **dict.fromkeys(
            (
                *("max_runs", "ingestion_concurrency_limit"),
                "graph_search_results_creation_concurrency_limit",
                "graph_search_results_concurrency_limit",
            ),
            int,
        ),
    },
    "scheduler": {"provider": str},
}
_WORDS = {bool: "true or false", int: "a whole number", str: "a text in quotes", list: "a list"}


def lint(document: Mapping[str, Any], where: str = "") -> list[str]:
    """What R2R would pass over or stumble on in its configuration: a sentence for each mistake.

    `where` stands before each key, such as "r2r.config".
    """
    prefix = (where,) if where else ()
    return list(_lint(document, KEYS, prefix))


def _lint(table: Mapping[str, Any], known: Any, path: tuple[str, ...]) -> Iterator[str]:
    for key, value in table.items():
        here = (*path, key)
        if isinstance(known, Each):
            kind = known.kind
        elif key in known:
            kind = known[key]
        else:
            yield f"{'.'.join(here)} is not a key of R2R {VERSION}{_nearest(key, known, path)}"
            continue
        if isinstance(kind, Each | Mapping):
            if not isinstance(value, Mapping):
                yield f"{'.'.join(here)} must be a table"
            elif kind is not FREE:
                yield from _lint(value, kind, here)
        elif not _is(value, kind):
            yield f"{'.'.join(here)} must be {_WORDS.get(kind, 'a number')}"


def _is(value: Any, kind: Any) -> bool:
    # true and false are whole numbers to Python
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def _nearest(key: str, known: Mapping[str, Any], path: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    return f"; did you mean {'.'.join([*path, close[0]])}?" if close else ""
