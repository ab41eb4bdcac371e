"""`lifted dashboard`: a saved W&B workspace for the runs of a project."""

import json
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lifted_lightning.commands.arguments import CommandParser
from lifted_lightning.errors import UserError, one_line
from lifted_lightning.runs.loggers import end_wandb_service

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Workspace


NAME = "Losses compared"
MAX_RUNS = 100  # that a panel takes in
RECALL_CURVE = "plots/recall_curve_test_table"  # W&B's name for the table of the chart that a run logs
STEP = "trainer/global_step"
QUALITY = ("recall@1", "map@r")
CLUSTERS = ("nmi", "f1")  # of the test alone
BATCH = ("active_share", "norm_mean", "positive_distance", "negative_distance", "effective_rank")
RATES = ("lr/trunk", "lr/head", "lr/loss")
COLUMNS = [
    *("config:loss", "config:embedding_size", "config:seed", "config:dataset"),
    *(f"summary:{stage}/{metric}" for stage in ("best", "test") for metric in QUALITY),
]


def run(arguments: Sequence[str]) -> int:
    """The command itself; returns its exit code."""
    options = parser().parse_args(arguments)
    try:
        import wandb_workspaces  # noqa: F401
    except ImportError as error:
        raise UserError("wandb-workspaces is missing: pip install lifted-lightning[dashboard]") from error
    if options.dry_run:
        built = workspace(options.project, options.entity or "")
        sent = {"entity": built.entity, "project": built.project, "name": built.name, "spec": built._spec["spec"]}
        print(json.dumps(sent, indent=2))
        return 0
    print(save(options.project, options.entity))
    return 0


def parser() -> CommandParser:
    """The options of `lifted dashboard`."""
    result = CommandParser(
        prog="lifted dashboard",
        description="Save a W&B workspace that compares the losses of a project's runs.",
    )
    result.add_argument("--project", required=True, help="the W&B project; runs go to lifted-lightning")
    result.add_argument("--entity", help="the W&B user or team; by default the one that is logged in")
    result.add_argument("--dry-run", action="store_true", help="print the workspace as JSON; needs no account")
    return result


def save(project: str, entity: str | None) -> str:
    """Save the workspace in W&B; returns its address.

    Raises:
        UserError: if nobody is logged in, or the server cannot be reached or refuses.
    """
    mode = os.environ.get("WANDB_MODE", "online")
    if mode != "online":
        raise UserError(f"WANDB_MODE={mode}: saving a dashboard needs the server; unset it, or give --dry-run")
    os.environ["WANDB_SILENT"] = "true"  # one line says it
    import wandb

    try:
        if not wandb.login(prompt=False):
            raise UserError("nobody is logged in to W&B: run `wandb login`, or give --dry-run")
        built = workspace(project, entity or wandb.Api().default_entity or "")
        built.save()
        return str(built.url)
    except wandb.errors.Error as error:
        end_wandb_service()
        raise UserError(f"W&B: {one_line(error).rstrip('.')}; try again later, or give --dry-run") from error


def workspace(project: str, entity: str) -> "Workspace":
    """The workspace: metrics of test and validation by loss, and by embedding size; pictures; runs compared."""
    import wandb_workspaces.workspaces as ws

    return ws.Workspace(
        entity=entity,
        project=project,
        name=NAME,
        sections=[
            ws.Section(
                name=name,
                panels=panels,
                is_open=True,
                layout_settings=ws.SectionLayoutSettings(columns=3, rows=-(-len(panels) // 3)),
            )
            for name, panels in sections().items()
        ],
        settings=ws.WorkspaceSettings(x_axis=STEP, max_runs=MAX_RUNS),
        runset_settings=ws.RunsetSettings(pinned_columns=COLUMNS),
    )


def sections() -> dict[str, list[Any]]:
    """The panels of each section. Where runs are grouped, means are shown with their standard error."""
    from wandb_workspaces.reports.v2 import interface as wr

    tests = [f"test/{metric}" for metric in (*QUALITY, *CLUSTERS)]
    by_loss: dict[str, Any] = {
        "groupby": wr.Config("loss"),
        "groupby_aggfunc": "mean",
        "groupby_rangefunc": "stderr",
        "max_runs_to_show": MAX_RUNS,
    }

    def lines(*plots: Sequence[str]) -> list[Any]:
        return [wr.LinePlot(title=metrics[0], x=STEP, y=list(metrics), **by_loss) for metrics in plots]

    bars = [wr.BarPlot(title=name, metrics=[name], **by_loss) for name in tests]
    curve = wr.CustomChart(
        query={"summaryTable": {"tableKey": RECALL_CURVE}},
        chart_name="wandb/line/v0",
        chart_fields={"x": "K", "y": "recall"},
        chart_strings={"title": "Recall@K, test"},
    )
    sizes = [
        wr.ScatterPlot(
            title=f"{name} against embedding size",
            x=wr.Config("embedding_size"),
            y=wr.SummaryMetric(name),
            log_x=True,
            legend_template="${config:loss} ${run:displayName}",
        )
        for name in ("best/map@r", *tests)
    ]
    pictures = [f"plots/{kind}_{stage}" for kind in ("tsne", "gallery") for stage in ("test", "validation")]
    pictures.append("plots/confusions_test")
    return {
        "Test, by loss": [*bars, curve],
        "Validation, by loss": lines(*((f"validation/{metric}", f"baseline/{metric}") for metric in QUALITY)),
        "Embedding size": sizes,
        "Pictures": [wr.MediaBrowser(title=key, media_keys=[key], num_columns=3) for key in pictures],
        "Training, by loss": lines(["train/loss"], RATES, *([f"batch/{figure}"] for figure in BATCH)),
        "Runs compared": [wr.RunComparer(diff_only="split")],
    }
