"""`plan.next_step` under random worlds: whatever happens, the safety rules hold."""

from datetime import timedelta

from builders import NOW, make_run, result
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from coldstart.plan import Child, ChildState, Finished, Observation, Start, Stop, Wait, next_step
from coldstart.spec import Stage
from coldstart.status import ErrorCode, StageState

LIMIT = 2
ENDED = (ChildState.SUCCEEDED, ChildState.FAILED, ChildState.PREEMPTED)


class World(RuleBasedStateMachine):
    """A planner that crashes at any point, and children that do anything a backend can do."""

    @initialize(
        sft=st.booleans(),
        gated=st.booleans(),
        timeout=st.sampled_from([None, 30]),
    )
    def begin(self, sft, gated, timeout):
        section = {"dataset": {"name": "d"}} | ({"timeoutSeconds": timeout} if timeout else {})
        gate = {"gate": {"minAccuracy": 0.5}} if gated else {}
        self.run = make_run(
            sft=section | gate if sft else None,
            evaluation={"benchmarks": [{"dataset": {"name": "t"}}]},
            retry={"limit": LIMIT, "backoffSeconds": 5, "maxBackoffSeconds": 8},
        )
        self.now = NOW
        self.children: dict[tuple[Stage, int], Child] = {}
        self.created: dict[Stage, list[int]] = {}
        self.verdicts: dict[str, tuple] = {}
        self.ended = ""

    @rule(crash=st.sampled_from([*["no"] * 6, "before the deed", "before the record"]))
    def plan(self, crash):
        """A few turns; the last may die before its deed, or between it and the record."""
        for last in (False, False, True):
            step = next_step(self.run, Observation(tuple(self.children.values())), self.now)
            if last and crash == "before the deed":
                return
            if isinstance(step.action, Start):
                self._create(step.action)
            if isinstance(step.action, Stop):
                self._stop(step.action)
            if last and crash == "before the record":
                return
            self.run = self.run.model_copy(update={"status": step.status})
            self._rules_hold()

    def _create(self, action: Start):
        key = (action.stage, action.attempt)
        entry = self.run.status and self.run.status.stage(action.stage.value)
        assert not (entry and entry.state is StageState.SUCCEEDED), "a finished stage ran again"
        if key in self.children:
            return
        assert not any(child.state.live for child in self.children.values()), "two live attempts"
        self.children[key] = Child(*key, ChildState.PENDING)
        self.created.setdefault(action.stage, []).append(action.attempt)

    def _stop(self, action: Stop):
        key = (action.stage, action.attempt)
        child = self.children[key]
        if child.state.live:
            self.children[key] = Child(*key, ChildState.STOPPING)

    @precondition(lambda self: any(c.state.live for c in self.children.values()))
    @rule(
        to=st.sampled_from([*ChildState, *[ChildState.FAILED] * 4, *[ChildState.SUCCEEDED] * 2]),
        error=st.sampled_from([*[None] * 9, *[ErrorCode.WORKER_LOST] * 9, *ErrorCode]),
        code=st.sampled_from([None, 0, 1, 2, 127, 128, 137, 137, 137, 143]),
        accuracy=st.sampled_from([0.4, 0.6]),
        truthful=st.sampled_from([True, True, True, False]),
        seconds=st.sampled_from([1, 20]),
    )
    def child_moves(self, to, error, code, accuracy, truthful, seconds):
        key, child = next((k, c) for k, c in self.children.items() if c.state.live)
        if child.state is ChildState.STOPPING and to.live:
            return
        told = None
        if to in ENDED and to is not ChildState.PREEMPTED:
            told = result(*key, uid="u" if truthful else "x", error=error, probe_accuracy=accuracy)
        self.children[key] = Child(*key, to, told, code)
        self.now += timedelta(seconds=seconds)
        self.plan("no")

    @precondition(lambda self: any(not c.state.live for c in self.children.values()))
    @rule(accuracy=st.sampled_from([0.4, 0.6]))
    def an_ended_child_is_reported_differently(self, accuracy):
        """A backend repeats itself, or a pod's message is edited: what is recorded stays."""
        key = next(k for k, c in self.children.items() if not c.state.live)
        told = result(*key, probe_accuracy=accuracy)
        self.children[key] = Child(*key, ChildState.SUCCEEDED, told, 0)

    @precondition(lambda self: self.children)
    @rule(data=st.data())
    def child_is_deleted(self, data):
        del self.children[data.draw(st.sampled_from(sorted(self.children)))]

    @rule(seconds=st.sampled_from([1, 5, 8, 60, 3600]))
    def time_passes(self, seconds):
        self.now += timedelta(seconds=seconds)

    @rule(suspend=st.booleans())
    def user_suspends(self, suspend):
        spec = self.run.spec.model_copy(update={"suspend": suspend})
        self.run = self.run.model_copy(update={"spec": spec})

    def _rules_hold(self):
        """What must be true after every record."""
        for entry in self.run.status.stages:
            assert entry.failures <= LIMIT, "more retries than the limit"
            if entry.gates:
                assert self.verdicts.setdefault(entry.name, entry.gates) == entry.gates
        for stage, attempts in self.created.items():
            numbers = list(range(1, max(attempts) + 1))
            assert sorted(set(attempts)) == numbers, "an attempt number was skipped"
            assert self.run.status.stage(stage.value).attempt <= len(numbers)
        status = self.run.status
        end = "Succeeded" * status.holds("Succeeded") + "Failed" * status.holds("Failed")
        assert end in {"", "Succeeded", "Failed"}
        assert not self.ended or end == self.ended, "a terminal condition flipped"
        self.ended = end

    @invariant()
    def repeated_on_its_own_status_it_comes_to_rest(self):
        """With nothing else changing, a few turns lead to a wait, an end, or one deed."""
        if not hasattr(self, "run"):
            return
        run = self.run
        for _ in range(8):
            step = next_step(run, Observation(tuple(self.children.values())), self.now)
            if step.action != Wait(0):
                return
            run = run.model_copy(update={"status": step.status})
        raise AssertionError("next_step spins")

    def teardown(self):
        """Left alone with children that succeed, every run ends, and nothing is left alive."""
        if not hasattr(self, "run"):
            return
        self.user_suspends(suspend=False)
        for _ in range(200):
            step = next_step(self.run, Observation(tuple(self.children.values())), self.now)
            if isinstance(step.action, Finished):
                assert not any(child.state.live for child in self.children.values())
                return
            if isinstance(step.action, Start):
                self._create(step.action)
            if isinstance(step.action, Stop):
                self._stop(step.action)
            self.run = self.run.model_copy(update={"status": step.status})
            for key, child in list(self.children.items()):
                if child.state.live:
                    told = result(*key, probe_accuracy=0.9)
                    self.children[key] = Child(*key, ChildState.SUCCEEDED, told, 0)
            self.now += timedelta(seconds=10)
        raise AssertionError("the run does not end")


TestWorld = World.TestCase
TestWorld.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
