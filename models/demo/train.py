"""Trains the demo model: python -m models.demo.train --corpus models/demo/work/corpus.jsonl --out models/demo

Takes a GPU where there is one. Ends after --steps or --minutes, whichever comes first, and the learning rate falls to
nothing by then. Stop it at any time: started again with the same --work it goes on from its last checkpoint.
"""

import argparse
import itertools
import math
import random
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from models.demo.batches import IGNORED, Batch, batches
from models.demo.export import export
from models.demo.tokens import CONTEXT, Row, for_transformers, read_talks, to_row, train_tokenizer

TOKENIZER_SAMPLE = 30_000
WARMUP_STEPS = 60


@dataclass(frozen=True)
class Plan:
    """How long to train, how fast to learn, and how often to save."""

    steps: int
    minutes: float
    rate: float
    save_minutes: float
    export_minutes: float
    checkpoint: Path
    out: Path

    def progress(self, step: int, seconds: float) -> float:
        """Steps and seconds done in, how much of the plan that is (0 to 1) out."""
        return min(1.0, max(step / self.steps, seconds / (60 * self.minutes)))

    def rate_at(self, step: int, seconds: float) -> float:
        """Steps and seconds done in, the learning rate out: a short warm-up, then a cosine down to nothing."""
        cosine = 0.5 * (1 + math.cos(math.pi * self.progress(step, seconds)))
        return self.rate * min(1.0, (step + 1) / WARMUP_STEPS) * cosine


def make_tokenizer(corpus: Path, vocab: int, path: Path) -> Tokenizer:
    """The corpus and a size in, its tokenizer out; made once and then read from `path`."""
    if not path.exists():
        talks = itertools.islice(read_talks(corpus), TOKENIZER_SAMPLE)
        texts = (message["content"] for talk in talks for message in talk["messages"])
        path.parent.mkdir(parents=True, exist_ok=True)
        train_tokenizer(texts, vocab).save(str(path))
    return Tokenizer.from_file(str(path))


def make_model(tokenizer: PreTrainedTokenizerFast, width: int, layers: int) -> LlamaForCausalLM:
    """The tokenizer and a shape in, an untrained model out."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        num_hidden_layers=layers,
        intermediate_size=width * 43 // 16,
        num_attention_heads=width // 64,
        num_key_value_heads=width // 64,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def make_optimizers(model: LlamaForCausalLM) -> list[torch.optim.Optimizer]:
    """A model in, its optimizers out: Muon for the layers' matrices, AdamW for the rest."""
    named = list(model.named_parameters())
    matrices = [weight for name, weight in named if weight.ndim == 2 and "embed" not in name]
    rest = [weight for name, weight in named if weight.ndim != 2 or "embed" in name]
    return [
        torch.optim.Muon(matrices, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, betas=(0.9, 0.95), weight_decay=0.01),
    ]


class Trainer:
    """Trains one model by one plan, and remembers how far it is."""

    def __init__(self, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, plan: Plan) -> None:
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model = model.to(self._device)  # type: ignore[arg-type]
        self._tokenizer = tokenizer
        self._plan = plan
        self._optimizers = make_optimizers(model)
        self._step, self._seconds, self._tokens, self._loss = 0, 0.0, 0, float("nan")
        self._resume()

    def run(self, rows: list[Row], batch_tokens: int, seed: int) -> None:
        """Talks as ids, tokens a batch and a seed in; trains to the end of the plan and exports the model."""
        assert self._tokenizer.pad_token_id is not None
        stream = batches(rows, batch_tokens, int(self._tokenizer.pad_token_id), seed)
        saved = exported = begun = time.monotonic() - self._seconds
        for batch in itertools.islice(stream, self._step, None):
            if self._plan.progress(self._step, self._seconds) >= 1:
                break
            self._learn(batch)
            now = time.monotonic()
            self._seconds = now - begun
            if now - saved > 60 * self._plan.save_minutes:
                self._save()
                saved = now
            if now - exported > 60 * self._plan.export_minutes:
                self._export()
                exported = now
        self._save()
        self._export()

    def _learn(self, batch: Batch) -> None:
        """A batch in; one step of learning, with a line printed every 20 steps."""
        rate = self._plan.rate_at(self._step, self._seconds)
        loss = self._loss_of(batch)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            optimizer.zero_grad()
        self._step += 1
        self._tokens += batch[0].numel()
        self._loss = loss.item() if math.isnan(self._loss) else 0.95 * self._loss + 0.05 * loss.item()
        if self._step % 20 == 0:
            speed = self._tokens / max(self._seconds, 1)
            print(
                f"step {self._step}  loss {self._loss:.4f}  rate {rate:.5f}  {speed:.0f} tokens/s  "
                f"{self._seconds / 60:.1f} min",
                flush=True,
            )

    def _loss_of(self, batch: Batch) -> torch.Tensor:
        """A batch in, the mean loss over the tokens to be learnt out (only those go through the output layer)."""
        inputs, targets = (part.to(self._device) for part in batch)
        learnt = targets != IGNORED
        with torch.autocast(self._device.type, torch.bfloat16):
            hidden = self._model.model(inputs).last_hidden_state[learnt]
            scores = self._model.lm_head(hidden)
        return cross_entropy(scores.float(), targets[learnt])

    def _save(self) -> None:
        """Writes the checkpoint, in one move."""
        state = {
            "model": self._model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
            "progress": (self._step, self._seconds, self._tokens, self._loss),
        }
        new = self._plan.checkpoint.with_suffix(".new")
        torch.save(state, new)
        new.replace(self._plan.checkpoint)

    def _resume(self) -> None:
        """Takes up the checkpoint where there is one."""
        if not self._plan.checkpoint.exists():
            return
        state = torch.load(self._plan.checkpoint, map_location=self._device, weights_only=True)
        self._model.load_state_dict(state["model"])
        for optimizer, saved in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self._step, self._seconds, self._tokens, self._loss = state["progress"]

    def _export(self) -> None:
        """Writes the model and its tokenizer where others load them."""
        export(self._model, self._tokenizer, self._plan.out)
        print(f"exported at step {self._step}, loss {self._loss:.4f}", flush=True)


def read_arguments() -> argparse.Namespace:
    """The command line in, its values out."""
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=Path, default=here / "work" / "corpus.jsonl")
    parser.add_argument("--work", type=Path, default=here / "work", help="the tokenizer and the checkpoint")
    parser.add_argument("--out", type=Path, default=here, help="where the finished model goes")
    parser.add_argument("--vocab", type=int, default=4096)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--batch-tokens", type=int, default=3072)
    parser.add_argument("--rate", type=float, default=5e-3)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--save-minutes", type=float, default=3)
    parser.add_argument("--export-minutes", type=float, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def main() -> None:
    """Reads the corpus, makes the tokenizer and the model, and trains."""
    args = read_arguments()
    random.seed(args.seed)
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    bare = make_tokenizer(args.corpus, args.vocab, args.work / "tokenizer.json")
    rows = [to_row(talk, bare) for talk in read_talks(args.corpus)]
    bare.encode_special_tokens = False
    tokenizer = for_transformers(bare)
    plan = Plan(
        args.steps, args.minutes, args.rate, args.save_minutes, args.export_minutes, args.work / "state.pt", args.out
    )
    model = make_model(tokenizer, args.width, args.layers)
    print(
        f"{len(rows)} talks, {sum(len(ids) for ids, _ in rows)} tokens, {model.num_parameters()} parameters", flush=True
    )
    Trainer(model, tokenizer, plan).run(rows, args.batch_tokens, args.seed)


if __name__ == "__main__":
    main()
