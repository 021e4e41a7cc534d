"""The `bench` commands: settings in, campaign played, table and plot out."""

from rich.console import Console

from hyperact.trainer.bench.settings import DeepSeaSettings


def deepsea(settings: DeepSeaSettings) -> int:
    """Count the episodes that variants of the learner need to solve DeepSea, beside the published curves."""
    from hyperact.trainer.bench import deep_sea
    from hyperact.trainer.bench.campaign import play_campaign
    from hyperact.trainer.bench.deep_sea_figure import deep_sea_figure
    from hyperact.trainer.bench.deep_sea_table import make_table
    from hyperact.trainer.bench.results import ResultsFile

    results = ResultsFile(settings.results, deep_sea.columns)
    failed = []
    if settings.play:
        failed = play_campaign(deep_sea.make_runs(settings), results, settings.jobs, Console(stderr=True))
    table = make_table(results.rows())
    Console().print(table.to_markdown() if settings.markdown else table.to_rich(), highlight=False)
    if settings.plot:
        settings.plot.parent.mkdir(parents=True, exist_ok=True)
        deep_sea_figure(results.rows()).savefig(settings.plot, dpi=120)
    return int(bool(failed))
