"""What is on the boards: titles, queries, units, limits. ``build.py`` makes Grafana's JSON of it.

Figures of the store are told by every replica of the API, so they are taken by ``max``; a process's own by ``sum``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

RATE = "$__rate_interval"


@dataclass(frozen=True)
class Panel:
    """queries: (query, legend). unit: Grafana's name of it. limits: from where on a value is worth a look, and bad.
    alert: the one that this shows coming."""

    title: str
    description: str
    queries: Sequence[tuple[str, str]]
    unit: str = "short"
    kind: str = "graph"
    width: int = 8
    limits: Sequence[float] = ()
    bad_below: bool = False
    alert: str = ""
    stacked: bool = False


@dataclass(frozen=True)
class Board:
    """variables: name → (label, query for its values)."""

    uid: str
    title: str
    description: str
    rows: Sequence[tuple[str, Sequence[Panel]]]
    variables: Mapping[str, tuple[str, str]] = field(default_factory=dict)


MODEL = {"model_name": ("Model", "label_values(textgen_jobs_waiting, model_name)")}
OF_MODEL = '{model_name=~"$model_name"}'


HITS = f'sum(rate(textgen_cache_lookups_total{{model_name=~"$model_name", result="hit"}}[{RATE}]))'
HIT_RATIO = f"{HITS} / (sum(rate(textgen_cache_lookups_total{OF_MODEL}[{RATE}])) > 0)"


def stat(title: str, description: str, query: str, **more: object) -> Panel:
    """A single number."""
    return Panel(title, description, [(query, "")], kind="stat", width=4, **more)  # type: ignore[arg-type]  # Panel checks


def quantiles(metric: str, by: str = "", where: str = OF_MODEL) -> list[tuple[str, str]]:
    """The median, and the one in twenty that is slowest."""
    of = f"sum by (le{', ' + by if by else ''}) (rate({metric}_bucket{where}[{RATE}]))"
    legend = f" {{{{{by}}}}}" if by else ""
    return [(f"histogram_quantile({q}, {of})", f"p{q * 100:g}{legend}") for q in (0.5, 0.95)]


PLATFORM = Board(
    "textgen-platform",
    "SmartTextGen: platform",
    "Do people get answers, and how fast?",
    [
        (
            "Now",
            [
                stat("Ready workers", "Workers with a live lease that take jobs.", f"sum(textgen:workers_ready{OF_MODEL})",
                     limits=[1], bad_below=True, alert="TextgenNoReadyWorker"),
                stat("Jobs waiting", "In lines, and on their way to a worker.", f"sum(textgen:jobs_waiting{OF_MODEL})"),
                stat("Oldest wait", "How long the oldest waiting job has waited. The target is five minutes.",
                     f"max(textgen:oldest_waiting_seconds{OF_MODEL})", unit="s", limits=[60, 300], alert="TextgenWaitOverTarget"),
                stat("Failed", "Jobs that fail or expire, of those that end without a cancel.", "textgen:jobs_failed:ratio5m",
                     unit="percentunit", limits=[0.01, 0.05], alert="TextgenErrorRatio"),
                stat("HTTP 5xx", "Requests that we could not answer.", "textgen:http_errors:ratio5m",
                     unit="percentunit", limits=[0.005, 0.02], alert="TextgenHttpErrors"),
                stat("Redis", "1: the API reaches it.", "max(textgen_redis_up)", limits=[1], bad_below=True, alert="TextgenRedisAway"),
            ],
        ),
        (
            "Jobs",
            [
                Panel("Jobs ended", "A second, by how they ended.", [(f"max by (status) (rate(textgen_jobs_ended_total[{RATE}]))", "{{status}}")],
                      unit="ops", stacked=True, alert="TextgenJobsDoNotEnd"),
                Panel("Waiting and running", "Jobs of all tenants.",
                      [(f"textgen:jobs_waiting{OF_MODEL}", "waiting, {{model_name}}"), (f"textgen:jobs_running{OF_MODEL}", "running, {{model_name}}"),
                       (f"textgen:slots{OF_MODEL}", "slots, {{model_name}}")]),
                Panel("Waiting in lines", "By priority; strict classes, so low waits while high has jobs.",
                      [(f"max by (priority) (textgen_jobs_in_lines{OF_MODEL})", "{{priority}}")], stacked=True),
                Panel("Oldest wait", "The age of the oldest waiting job.", [(f"textgen:oldest_waiting_seconds{OF_MODEL}", "{{model_name}}")],
                      unit="s", limits=[60, 300], alert="TextgenWaitOverTarget"),
                Panel("Time in the queue", "From submit to claim.", quantiles("vllm:request_queue_time_seconds"), unit="s"),
                Panel("From submit to end", "What a client waits for the whole answer.", quantiles("vllm:e2e_request_latency_seconds"), unit="s"),
                Panel("From submit to first token", "What a stream's reader waits.", quantiles("vllm:time_to_first_token_seconds"), unit="s"),
                Panel("ETA error", "How far off the ETA at submit was when the job started.",
                      [(f"histogram_quantile(0.5, max by (le) (rate(textgen_eta_error_seconds_bucket{OF_MODEL}[{RATE}])))", "p50"),
                       ("textgen:eta_error_seconds:p90_1h", "p90 of an hour, {{model_name}}")], unit="s"),
                Panel("Slots in use", "Running jobs, of the ready workers' slots. At 100 % jobs wait.", [(f"textgen:slots_used:ratio{OF_MODEL}", "{{model_name}}")],
                      unit="percentunit"),
            ],
        ),
        (
            "What went wrong",
            [
                Panel("Workers lost", "Leases that ran out, the jobs that were put back, and hints that were sent again.",
                      [(f"max(increase(textgen_lease_expiries_total[{RATE}]))", "leases expired"),
                       (f"max(increase(textgen_jobs_requeued_total[{RATE}]))", "jobs requeued"),
                       (f"max(increase(textgen_hints_resent_total[{RATE}]))", "hints sent again")], alert="TextgenLeaseExpiries"),
                Panel("Dead letters", "Jobs that were aboard too many crashes.", [("max(textgen_dead_letters)", "dead letters")],
                      limits=[1], alert="TextgenDeadLetters"),
                Panel("Authentication failures", "Requests without a valid key, or without the scope.",
                      [(f"sum by (reason) (rate(textgen_auth_failures_total[{RATE}]))", "{{reason}}")], unit="reqps"),
            ],
        ),
        (
            "HTTP",
            [
                Panel("Requests", "By route.", [(f"sum by (method, handler) (rate(http_requests_total[{RATE}]))", "{{method}} {{handler}}")], unit="reqps"),
                Panel("Answers", "By status.", [(f"sum by (status) (rate(http_requests_total[{RATE}]))", "{{status}}")],
                      unit="reqps", stacked=True, alert="TextgenHttpErrors"),
                Panel("Latency, p95", "By route; long polls include their wait, streams end with their first byte.",
                      quantiles("http_request_duration_seconds", "handler", "")[1:], unit="s"),
                Panel("Open streams and long polls", "In all processes of the API.",
                      [("sum(textgen_open_streams)", "streams"), ("sum(textgen_open_long_polls)", "long polls")]),
                Panel("Targets", "1: Prometheus reaches it.", [("min by (job) (up)", "{{job}}")], limits=[1], bad_below=True, alert="TextgenTargetDown"),
            ],
        ),
        (
            "Webhooks",
            [
                Panel("Attempts", "By what they came to.", [(f"sum by (verdict) (rate(textgen_webhook_attempts_total[{RATE}]))", "{{verdict}}")],
                      unit="ops", stacked=True),
                Panel("Waiting for a courier", "The oldest message or overdue delivery.", [("max(textgen_webhook_oldest_seconds)", "oldest")],
                      unit="s", limits=[60], alert="TextgenWebhookBacklog"),
                Panel("Backlog", "Messages not taken up, receivers overdue, and the couriers that are there.",
                      [("max(textgen_webhook_outbox)", "messages"), ("max(textgen_webhook_receivers_due)", "receivers overdue"), ("max(textgen_couriers)", "couriers")]),
                Panel("Age at delivery", "From an event to its delivery.", quantiles("textgen_webhook_delivery_age_seconds", where=""), unit="s"),
                Panel("Length of an attempt", "How long receivers take.", quantiles("textgen_webhook_attempt_seconds", where=""), unit="s"),
            ],
        ),
    ],
    MODEL,
)  # fmt: skip

WORKER = Board(
    "textgen-worker",
    "SmartTextGen: workers and engine",
    "Where the time of the device goes. vLLM's names: boards made for vLLM work as well.",
    [
        (
            "Engine",
            [
                Panel("Sequences", "In the running batch, and waiting inside the engine.",
                      [(f"sum by (instance) (vllm:num_requests_running{OF_MODEL})", "running, {{instance}}"),
                       (f"sum by (instance) (vllm:num_requests_waiting{OF_MODEL})", "waiting, {{instance}}")]),
                Panel("Tokens", "A second: generated, and prompt tokens computed.",
                      [("textgen:tokens_per_second:rate1m" + OF_MODEL, "generated"), (f"sum(rate(vllm:prompt_tokens_total{OF_MODEL}[{RATE}]))", "prompt")]),
                Panel("Time between tokens", "Of one sequence: what a stream's reader sees.", quantiles("vllm:inter_token_latency_seconds"), unit="s"),
                Panel("Sequences in a step", "How full the batch is.",
                      [(f"sum(rate(textgen_step_rows_sum{OF_MODEL}[{RATE}])) / (sum(rate(textgen_step_rows_count{OF_MODEL}[{RATE}])) > 0)", "mean"),
                       *quantiles("textgen_step_rows")[1:]]),
                Panel("Steps", "A second, by worker.", [(f"sum by (instance) (rate(textgen_engine_steps_total{OF_MODEL}[{RATE}]))", "{{instance}}")], unit="ops"),
                Panel("Room for keys and values", "In use.", [(f"vllm:kv_cache_usage_perc{OF_MODEL}", "{{instance}}")], unit="percentunit"),
            ],
        ),
        (
            "Attempts",
            [
                Panel("Attempts", "A second, by their end. Fenced: another attempt owned the job by then.",
                      [(f"sum by (end) (rate(textgen_attempts_total{OF_MODEL}[{RATE}]))", "{{end}}")], unit="ops", stacked=True),
                Panel("Why answers ended", "stop: the model or a stop string; length: max_length; abort: canceled or expired.",
                      [(f"sum by (finished_reason) (rate(vllm:request_success_total{OF_MODEL}[{RATE}]))", "{{finished_reason}}")], unit="ops", stacked=True),
                Panel("Result cache", "Hits, of the jobs that may be served from it (greedy or seeded).",
                      [(HIT_RATIO, "hits")], unit="percentunit"),
                Panel("From cancel to stop", "Within the worker.", quantiles("textgen_cancel_latency_seconds"), unit="s"),
                Panel("Workers", "With a live lease.", [(f"max by (state) (textgen_workers{OF_MODEL})", "{{state}}")], alert="TextgenNoReadyWorker"),
                Panel("Engine healthy", "0: loading, or broken.", [(f"textgen_engine_healthy{OF_MODEL}", "{{instance}}")],
                      limits=[1], bad_below=True, alert="TextgenEngineUnhealthy"),
            ],
        ),
        (
            "Machine",
            [
                Panel("Device memory", "In use, of all (on a CPU: of the process, of the machine).",
                      [(f"textgen_device_memory_bytes{OF_MODEL}", "{{kind}}, {{instance}}")], unit="bytes", alert="TextgenDeviceMemory"),
                Panel("Resident memory", "Of worker and courier processes.", [('process_resident_memory_bytes{job=~"worker|courier"}', "{{job}} {{instance}}")], unit="bytes"),
                Panel("CPU", "Cores in use.", [(f'rate(process_cpu_seconds_total{{job=~"worker|courier"}}[{RATE}])', "{{job}} {{instance}}")]),
            ],
        ),
    ],
    MODEL,
)  # fmt: skip

TENANTS = Board(
    "textgen-tenants",
    "SmartTextGen: tenants",
    "Those that METRICS_TENANTS names; empty where it names none.",
    [
        (
            "Tenants",
            [
                Panel("Tokens", "Generated, a second.",
                      [(f'max by (tenant) (rate(textgen_tenant_tokens_total{{tenant=~"$tenant", kind="completion"}}[{RATE}]))', "{{tenant}}")], width=12),
                Panel("Prompt tokens", "A second.",
                      [(f'max by (tenant) (rate(textgen_tenant_tokens_total{{tenant=~"$tenant", kind="prompt"}}[{RATE}]))', "{{tenant}}")], width=12),
                Panel("Jobs", "That ran, a second.", [(f'max by (tenant) (rate(textgen_tenant_jobs_total{{tenant=~"$tenant"}}[{RATE}]))', "{{tenant}}")],
                      unit="ops", width=12),
                Panel("Waiting in lines", "Jobs that no slot is near for.", [('max by (tenant) (textgen_tenant_jobs_in_lines{tenant=~"$tenant"})', "{{tenant}}")], width=12),
            ],
        )
    ],
    {"tenant": ("Tenant", "label_values(textgen_tenant_jobs_in_lines, tenant)")},
)  # fmt: skip

REDIS = Board(
    "textgen-redis",
    "SmartTextGen: Redis",
    "The store and the broker. Append-only and noeviction: it must never evict.",
    [
        (
            "Redis",
            [
                Panel("Memory", "Used, of the limit. Full, it refuses new jobs and still lets old ones end.",
                      [("redis_memory_used_bytes", "used"), ("redis_memory_max_bytes > 0", "limit")], unit="bytes", alert="TextgenRedisMemory"),
                Panel("Commands", "A second.", [(f"rate(redis_commands_processed_total[{RATE}])", "commands")], unit="ops"),
                Panel("Time per command", "Mean of each, on the server.",
                      [(f"topk(8, rate(redis_commands_duration_seconds_total[{RATE}]) / (rate(redis_commands_total[{RATE}]) > 0))", "{{cmd}}")], unit="s"),
                Panel("Busy", "Share of the time that the one thread works.", [(f"sum(rate(redis_commands_duration_seconds_total[{RATE}]))", "busy")],
                      unit="percentunit", limits=[0.5, 0.8]),
                Panel("Clients", "Connections, and those that wait in a blocking command.",
                      [("redis_connected_clients", "connected"), ("redis_blocked_clients", "blocked")]),
                Panel("Keys", "Of all kinds, and those that expire by themselves.", [("sum(redis_db_keys)", "keys"), ("sum(redis_db_keys_expiring)", "expiring")]),
                Panel("Evicted keys", "Not zero: the server is set up wrongly, and accepted jobs were lost.", [(f"increase(redis_evicted_keys_total[{RATE}])", "evicted")],
                      limits=[1], alert="TextgenRedisMemory"),
                Panel("Append-only file", "Written well: 1.", [("redis_aof_last_write_status", "last write"), ("redis_aof_enabled", "enabled")], limits=[1], bad_below=True),
                Panel("Up", "1: the exporter reaches it.", [("redis_up", "redis")], limits=[1], bad_below=True, alert="TextgenRedisAway"),
            ],
        )
    ],
)  # fmt: skip

BOARDS = (PLATFORM, WORKER, TENANTS, REDIS)
