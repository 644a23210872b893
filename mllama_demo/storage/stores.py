"""Every store of one database, together: what the composition root builds once and hands down."""

from __future__ import annotations

from dataclasses import dataclass

from mllama_demo.storage.conversations import ConversationStore
from mllama_demo.storage.drafts import Drafts
from mllama_demo.storage.explore_runs import ExploreRuns
from mllama_demo.storage.feedback import Feedback
from mllama_demo.storage.run_shares import RunShares
from mllama_demo.storage.shares import Shares


@dataclass(frozen=True)
class Stores:
    """Attributes:
    conversations: Conversations and their images.
    drafts: Text of answers that are being written.
    shares: Read-only copies of conversations behind links.
    feedback: Opinions on answers.
    explore_runs: Finished explorations.
    run_shares: Explorations behind links.
    """

    conversations: ConversationStore
    drafts: Drafts
    shares: Shares
    feedback: Feedback
    explore_runs: ExploreRuns
    run_shares: RunShares

    @classmethod
    def of(cls, conversations: ConversationStore, max_kept_runs: int = 200) -> Stores:
        """The stores beside `conversations` in its database. max_kept_runs: how many explorations of one owner are kept."""
        runs = ExploreRuns(conversations.database, max_kept_runs)
        return cls(
            conversations,
            Drafts(conversations),
            Shares(conversations),
            Feedback(conversations),
            runs,
            RunShares(runs),
        )

    def close(self) -> None:
        self.conversations.database.close()
