"""Contracts of the whole package: who imports whom, what stays unloaded, how errors speak."""

from __future__ import annotations

import ast
import builtins
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import understudy

PACKAGE = Path(understudy.__file__).parent
MODULES = {
    ".".join(("understudy", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(
        ".__init__"
    ): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
TORCH = {"torch", "torchvision", "timm", "safetensors", "PIL"}
HEAVY = TORCH | {"sklearn", "numba", "scipy", "jinja2", "transformers", "altair", "vl_convert"}

PROGRAMMERS = {"ValueError", "TypeError", "KeyError", "IndexError", "AttributeError"}

# What each layer may import of understudy, beyond itself; the nouns and verbs at the root first.
CORE = {
    "errors": set(),
    "extras": {"errors"},
    "library_versions": set(),
    "locks": {"errors"},
    "files": {"errors", "locks"},
    "folders": {"errors", "files", "locks"},
    "contained_files": {"errors"},
    "written_places": {"errors"},
    "documents": {"errors", "files"},
    "cascade_file": {
        "errors", "documents", "contained_files", "written_places", "certificate", "deferral",
        "operating_point", "policy",
    },
    "parquet_files": {"extras", "files"},
    "answer_files": {"errors", "extras", "files"},
    "unfinished": {"errors", "files", "folders", "locks"},
    "short_repr": set(),
    "chart_layout": set(),
    "html_views": {"display", "text_table"},
    "tabular": {"errors", "html_views"},
    "json_codec": {"errors", "files", "documents", "short_repr"},
    "split": {"errors"},
    "confidence_functions": {"errors"},
    "policy": {"json_codec", "errors"},
    "exit": {"confidence_functions", "errors", "short_repr"},
    "malloc": set(),
    "switching": set(),
    "progress_bars": {"text_table"},
    "lazy_imports": {"errors", "extras"},
    "table_validation": {"errors"},
    "class_outputs": {"errors", "extras", "table_validation"},
    "class_logits": {"class_outputs", "confidence_functions", "errors"},
    "label_sets": {"errors", "table_validation", "class_outputs"},
    "sitting": {"json_codec", "errors"},
    "measured_rounds": {"errors", "sitting"},
    "reference": {"exit", "display"},
    "priced_exits": {"errors", "exit", "sitting", "table_validation"},
    "scores": {
        "priced_exits",
        "errors", "confidence_functions", "split", "exit", "table_validation", "sitting",
        "reference", "short_repr", "tabular", "class_outputs", "label_sets",
    },
    "lazy_table": {
        "errors", "exit", "label_sets", "priced_exits", "scores", "sitting", "split",
        "table_validation",
    },
    "time_noise": {"errors", "exit", "priced_exits", "scores", "sitting"},
    "looks": {"errors", "extras", "files", "documents", "locks", "parquet_files"},
    "store": {
        "contained_files",
        "errors", "exit", "extras", "files", "documents", "folders", "locks", "parquet_files",
        "looks", "split", "scores", "sitting", "lazy_table",
        "table_validation",
    },
    "intervals": set(),
    "betting": {"errors", "json_codec"},
    "outcome": {
        "json_codec", "errors", "policy", "priced_exits", "scores", "intervals", "time_noise",
        "display", "short_repr", "tabular", "table_validation",
    },
    "frontier": {
        "json_codec", "errors", "policy", "scores", "outcome", "short_repr", "tabular",
    },
    "deciles": {
        "json_codec", "errors", "confidence_functions", "scores", "deferral", "tabular",
        "label_sets", "outcome", "policy",
    },
    "certificate": {
        "json_codec", "errors", "policy", "outcome", "display", "html_views", "split",
        "text_table",
    },
    "import_predictions": {
        "errors", "extras", "files", "split", "scores", "table_validation", "label_sets",
    },
    "shift": {
        "json_codec", "errors", "policy", "outcome", "certificate", "display", "text_table",
        "html_views", "intervals", "short_repr", "tabular",
    },
    "policy_set": {
        "errors", "policy", "outcome", "scores", "intervals", "split", "deferral", "ensemble",
        "display", "shift", "sample_marks",
    },
    "sample_marks": {"scores"},
    "baseline": {"json_codec", "errors", "policy", "scores", "outcome"},
    "choice": {"json_codec", "errors", "policy", "outcome", "certificate", "split", "baseline"},
    "result_tables": {"choice", "certificate", "display", "split", "text_table"},
    "result": {
        "choice", "result_tables", "shift", "policy_set",
        "json_codec", "errors", "outcome", "frontier", "deciles",
        "display", "split", "scores", "deferral", "ensemble", "exit", "reference",
        "confidence_functions", "html_views", "short_repr", "tabular", "progress_bars",
    },
    "import_exits": {"errors", "files", "policy", "scores", "split"},
    "ensemble": {"json_codec", "errors", "confidence_functions", "exit", "scores"},
    "deferral": {
        "json_codec", "errors", "confidence_functions", "exit", "scores", "policy", "split",
        "ensemble",
    },
    "operating_point": {"json_codec", "errors", "policy", "certificate", "result", "baseline"},
    "model_card": {
        "certificate", "display", "ensemble", "errors", "operating_point", "outcome", "policy",
        "split",
    },
    "display": {"text_table"},
    "text_table": set(),
}  # fmt: skip
LAYERS = {
    "catalogue": set(CORE),
    "searching": set(CORE),
    "runtime": set(CORE),
    "monitoring": set(CORE),
    "graph": {"errors", "extras"},
    "nn": {*CORE, "runtime", "graph"},
    "early_exit": {*CORE, "runtime", "nn", "graph"},
    "callables": {*CORE, "runtime"},
    "estimators": {*CORE, "searching", "runtime", "callables"},
    "onnx": {*CORE, "runtime"},
    "zoo": {*CORE, "callables", "nn", "early_exit", "onnx"},
    "scoring": {*CORE, "runtime", "graph", "nn", "early_exit", "zoo"},
    "training": {*CORE, "searching", "runtime", "nn", "early_exit", "graph", "zoo"},
    "onnx.export": {*CORE, "runtime", "onnx", "nn", "early_exit", "graph", "zoo"},
    "backends": {*CORE, "runtime", "callables", "nn", "scoring"},
    "serving": {*CORE, "runtime", "monitoring", "zoo"},
    "cluster": {*CORE, "searching", "runtime", "nn", "onnx", "zoo", "scoring", "serving"},
    "plots": {*CORE, "searching"},
    "reproduction": {
        *CORE, "catalogue", "searching", "nn", "early_exit", "zoo", "scoring", "training",
    },
    "app": {
        *CORE, "catalogue", "searching", "runtime", "nn", "early_exit", "onnx", "onnx.export",
        "zoo", "scoring", "training", "reproduction", "monitoring", "serving", "cluster",
        "plots",
    },
    "__main__": {"app"},
}  # fmt: skip


def layer(module: str) -> str:
    """The file or folder at the root of the package that a module belongs to.

    What exports to ONNX stands apart from what runs it: it knows PyTorch.
    """
    parts = module.split(".")
    return "onnx.export" if ".".join(parts[1:]) in EXPORT else [*parts, ""][1]


EXPORT = {"onnx.export", "onnx.export_graph", "onnx.export_preprocess", "onnx.parity"}

# Inside a folder each file imports only files that stand before it.
ORDER = {
    "catalogue": "models published selection suggestions",
    "runtime": (
        "protocol fitting_parts loader_batch metrics buffer pipeline remote base_cascade "
        "value_graph planned places lanes scheduler delivery offline online executor"
    ),
    "monitoring": (
        "settings decisions watched_points shift_test promise watch_state events answer_log "
        "snapshot watch event_codec history_file history"
    ),
    "graph": "model_output capture liveness partition batch_norm_folding",
    "nn": (
        "training_modes confidence_functions input_guard preprocess processor stage mode_options "
        "execution_mode identity "
        "class_names cost cascade split_cascade"
    ),
    "early_exit": "heads taps exit_sequence stages network serialization",
    "callables": "samples stage cascade scoring",
    "estimators": "estimator_names cross_fitting cascade_classifier",
    "onnx": "bundle session cascade parity export_preprocess export_graph export",
    "zoo": (
        "spec allowed_code hub_names onnx_options model_specs decoding image_source "
        "imagenet_classes imagenet_labels shards data_specs weights hub_access library_models "
        "hf_processor hf_models callable_models onnx_macs onnx_models factories "
        "folder_images imagenet_images parquet_column parquet_images tar_images hub_images "
        "encoded data batches models saved_cascades runnables"
    ),
    "scoring": (
        "launcher members claims repeatability outputs probing shards source_run measuring "
        "sources shard_scorer plan further_exits new_sources table_times job place joined_probing "
        "joined in_memory on_disk"
    ),
    "reproduction": "papers workload settings record procedures run",
    "serving": (
        "deadlines request_errors tensors open_inference model_metadata content_encoding bodies "
        "openapi settings traffic served_answers served_policies "
        "latest_answers image_inputs watching execution service open_inference_routes "
        "replica_counts service_status service_metrics replicas request_guard classify "
        "page_routes routes asgi request_log direct_inference http_protocol server"
    ),
    "cluster": (
        "connection remote_scoring shard_queue shard_news shard_actor shard_actors "
        "probing_run scoring_job savers "
        "serve_calls stage_calls serve_handle serve_proxy serve_spec serve_stage serve_replica "
        "serve_app serve_session"
    ),
    "plots": (
        "palette layers rendering frontier_chart pairs_chart deferral_chart difficulty_chart"
    ),
    "training": (
        "config named_config augmentation sampling backbone features teacher_answers "
        "feature_cache averaging checkpoint targets gatekeeper pair_saving trainables loop joint "
        "api saver_config pair_checks saver_record saver"
    ),
    "searching": (
        "_jit right_bits _all_pairs_kernels _chain_solver_kernels _exact_test_kernels exit_problem "
        "_coordinate_descent_kernels pairs deferral_curves reliability all_pairs pair_savings "
        "stored_pairs baselines exact_test policy_sequences saving_bound certify "
        "joint_certificates expected_cost search_spec "
        "fitted_exits chain_solver chains coordinate_descent exits scalar_minima onepass "
        "published_rules saver_ranking equal_loss strategies little_steps promising_pairs "
        "saver_lines best_savers search_data optimism search labels_needed verify"
    ),
    "app": (
        "bench_result run_cascade bench bench_job build_cascade policies_at next_commands "
        "reproduction_views report demo cli"
    ),
}

# The one arrow that points upwards, a late import: `result.report(path)`, for notebooks.
UPWARDS = ("understudy.result", "understudy.app.report.page")


@cache
def tree_of(name: str) -> ast.Module:
    return ast.parse(MODULES[name].read_text(encoding="utf-8"))


def trees() -> Iterator[tuple[str, ast.Module]]:
    for name in MODULES:
        yield name, tree_of(name)


def imports(tree: ast.AST) -> Iterator[str]:
    """The modules that are imported, wherever the import stands: for types and late ones too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            full = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from (name if name in MODULES else str(node.module) for name in full)


@cache
def own_imports(name: str) -> set[str]:
    """The modules of the package that a module imports."""
    found = imports(tree_of(name))
    return {one for one in found if one in MODULES and one != name and (name, one) != UPWARDS}


@pytest.mark.parametrize("name", [name for name in MODULES if layer(name)])
def test_imports_point_one_way(name: str) -> None:
    own = layer(name)
    allowed = {own, *(CORE | LAYERS)[own]}
    used = {layer(one) for one in own_imports(name)} - {""}
    assert used <= allowed, f"{name} imports {sorted(used - allowed)}"


def test_imports_have_no_cycle() -> None:
    """Removing modules that import none of the rest, again and again, removes all."""
    rest = {name: own_imports(name) for name in MODULES}
    while rest:
        free = {name for name, used in rest.items() if not used & rest.keys()}
        assert free, f"these import one another: {sorted(rest)}"
        rest = {name: used for name, used in rest.items() if name not in free}


@pytest.mark.parametrize("folder", ORDER)
def test_files_of_a_folder_have_an_order(folder: str) -> None:
    order = ORDER[folder].split()
    files = {
        path.parent.name if path.name == "__init__.py" else path.stem: name
        for name, path in MODULES.items()
        if name.rpartition(".")[0] == f"understudy.{folder}"
    }
    assert set(order) == set(files), "the order names every file, and no other"
    for position, file in enumerate(order):
        used = {
            one.split(".")[len(folder.split(".")) + 1]
            for one in own_imports(files[file])
            if one.startswith(f"understudy.{folder}.")
        }
        assert used <= {*order[:position], file}, f"{folder}/{file} imports {used}"


def test_a_class_name_is_used_once() -> None:
    names = [
        node.name
        for _, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    ]
    assert sorted(names) == sorted(set(names))


def test_every_module_has_its_place() -> None:
    assert {layer(name) for name in MODULES} == {"", *CORE, *LAYERS}


@pytest.mark.parametrize(
    "own",
    [
        *CORE,
        *("catalogue", "searching", "runtime", "monitoring", "callables", "estimators", "onnx"),
    ],
)
def test_the_core_never_names_torch(own: str) -> None:
    for name in MODULES:
        if layer(name) == own:
            found = {one.split(".")[0] for one in imports(tree_of(name))}
            assert not found & TORCH, f"{name} imports {found & TORCH}"


def fresh(code: str, tmp_path: Path) -> None:
    script = tmp_path / "fresh.py"
    script.write_text(code)
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", script],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr


TABLE = """
import sys, understudy
import numpy as np
count = 3000
right = np.random.default_rng(0).random(count) < 0.9
table = understudy.ScoreTable.from_predictions(
    {"tiny": (right.astype(int), np.where(right, .9, .5)),
     "big": (np.ones(count, int), np.ones(count))},
    np.ones(count, int), costs={"tiny": 1, "big": 9})
understudy.save_table(table, sys.argv[0] + ".table")
table = understudy.load_table(sys.argv[0] + ".table")
"""


def test_loading_and_searching_leave_the_heavy_alone(tmp_path: Path) -> None:
    """Loading a table is light; a search loads SciPy and Numba, which the exact test needs."""
    fresh(
        TABLE
        + f"assert not {HEAVY} & set(sys.modules), {HEAVY} & set(sys.modules)\n"
        + "assert understudy.search(table, max_drop=1.0).choices[0].policy.exits[0] == 'tiny'\n"
        + "from understudy.searching.search import search_in_sample\n"
        + "search_in_sample(table, max_drop=1.0)\n"
        + f"loaded = {HEAVY - {'scipy', 'numba'}} & set(sys.modules)\n"
        + "assert not loaded, loaded\n",
        tmp_path,
    )


def test_the_command_line_leaves_torch_alone(tmp_path: Path) -> None:
    fresh(
        TABLE
        + "from understudy.app.cli.main import app\n"
        + "path = sys.argv[0] + '.table'\n"
        + "app(['search', path, '--max-drop', '1', '--json'], standalone_mode=False)\n"
        + "app(['difficulty', path], standalone_mode=False)\n"
        + f"loaded = {HEAVY - {'scipy', 'numba'}} & set(sys.modules)\n"
        + "assert not loaded, loaded\n",
        tmp_path,
    )


def test_public_names_are_there() -> None:
    assert len(set(understudy.__all__)) == len(understudy.__all__) <= 25
    for name in understudy.__all__:
        assert getattr(understudy, name) is not None
    with pytest.raises(AttributeError, match="'nonsense'"):
        understudy.nonsense  # type: ignore[attr-defined]  # noqa: B018


def raised(tree: ast.AST) -> Iterator[ast.Call]:
    """Every error that is made on the spot with a message of its own."""
    for node in ast.walk(tree):
        made = node.exc if isinstance(node, ast.Raise) else None
        if isinstance(made, ast.Call) and made.args and ast.unparse(made.func) != "MissingExtra":
            yield made


def carries_a_value(message: ast.expr) -> bool:
    """An f-string, a name, a call or a sum of such; or a text that says "found none"."""
    return not isinstance(message, ast.Constant) or "found" in str(message.value)


def test_messages_carry_what_was_found() -> None:
    all_raised = [(name, call) for name, tree in trees() for call in raised(tree)]
    bare = [
        f"{name}:{call.lineno}" for name, call in all_raised if not carries_a_value(call.args[0])
    ]
    assert len(all_raised) > 100
    assert len(bare) <= 0.05 * len(all_raised), bare


def test_errors_are_our_own_or_python_s_for_programmers() -> None:
    """What a user can cause is an UnderstudyError; a bare Exception or RuntimeError is nobody's."""
    for name, tree in trees():
        for call in raised(tree):
            if isinstance(call.func, ast.Name) and hasattr(builtins, call.func.id):
                assert call.func.id in PROGRAMMERS, f"{name}:{call.lineno}"


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Every call with the dotted name of what is called."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def test_nothing_is_printed_or_unpickled() -> None:
    for name, tree in trees():
        for called, node in calls(tree):
            place = f"{name}:{node.lineno}"
            assert called not in {"print", "eval", "exec"}, place
            root, _, last = called.rpartition(".")
            if called != "joblib.hash":  # which reads nothing
                assert root not in {"pickle", "cloudpickle", "dill", "joblib", "marshal"}, place
            assert last != "Unpickler", place
            options = {option.arg: ast.unparse(option.value) for option in node.keywords}
            if called == "torch.load":
                assert options.get("weights_only") == "True", place
            if called in {"np.load", "numpy.load"}:
                assert options.get("allow_pickle", "False") == "False", place


def test_there_is_no_drawer_for_everything() -> None:
    assert not {"utils", "helpers", "misc", "common"} & {path.stem for path in MODULES.values()}


def test_the_architecture_names_every_file() -> None:
    """Verbs of the command line have a file each, and compiled halves stand beside their own."""
    page = (PACKAGE.parents[1] / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = set(re.findall(r"\w+", page.partition("## Three ways through it")[0]))
    files = [path for path in PACKAGE.rglob("*.py") if path.parent.name != "cli"]
    missing = [path for path in files if path.stem not in named and not path.stem.startswith("_")]
    assert not missing
