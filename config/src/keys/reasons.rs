//! Why a key of Kafka is accepted but not used by this version, or refused, one constant for each reason.

use crate::key::State::{self, AcceptedNotYet, Refused};

pub(crate) const NOT_YET: State = AcceptedNotYet("nothing in this version depends on it");
pub(crate) const WORKERS: State = AcceptedNotYet("threads are counted by odradek.broker.workers");
pub(crate) const MEMORY: State = AcceptedNotYet("memory is bounded by odradek.request.memory.max.bytes");
pub(crate) const PURGATORY: State = AcceptedNotYet("waiting requests are removed as soon as they are done");
pub(crate) const RAFT: State = AcceptedNotYet("the metadata log is compacted by snapshots alone");
pub(crate) const ELECTION: State =
    AcceptedNotYet("all times of an election follow from controller.quorum.election.timeout.ms");
pub(crate) const LINGER: State = AcceptedNotYet("records that arrive during a write share the next one");
pub(crate) const RETRY: State = AcceptedNotYet("pauses between requests to the quorum are fixed");
pub(crate) const SNAPSHOT: State = AcceptedNotYet("a snapshot of the metadata travels in one piece");
pub(crate) const INDEX: State = AcceptedNotYet("indexes have no files of their own that could be full");
pub(crate) const LOG_START: State = AcceptedNotYet("log start offsets are written down whenever they move");
pub(crate) const FETCHERS: State = AcceptedNotYet("one task fetches from each leader");
pub(crate) const BUFFERS: State = AcceptedNotYet("the system sizes the buffers of connections to leaders");
pub(crate) const CLASSIC: State = AcceptedNotYet("the classic group protocol is the only one yet");
pub(crate) const METRICS: State = AcceptedNotYet("metrics leave through odradek.metrics.listener");
pub(crate) const TELEMETRY: State = AcceptedNotYet("client telemetry is not there yet");
pub(crate) const PLUGINS: State = AcceptedNotYet("there are no Java classes to load");
pub(crate) const JVM: State = AcceptedNotYet("it configures the Java runtime");
pub(crate) const CORDON: State = AcceptedNotYet("no log directory is ever cordoned yet");
pub(crate) const DIRECTORY_FAILURE: State =
    AcceptedNotYet("heartbeats tell of a log directory that failed until the controller knows it");
pub(crate) const TIERED: State = AcceptedNotYet("tiered storage is not there yet");
pub(crate) const QUOTAS: State = AcceptedNotYet("quotas are not there yet");
pub(crate) const CONSUMER: State = AcceptedNotYet("the consumer group protocol of KIP-848 is not there yet");
pub(crate) const STREAMS: State = AcceptedNotYet("the streams group protocol is not there yet");
pub(crate) const SHARE: State = AcceptedNotYet("share groups are not there yet");
pub(crate) const TWO_PHASE_COMMIT: State = AcceptedNotYet("two-phase commit (KIP-939) is not there yet");
pub(crate) const ACLS: State = AcceptedNotYet("authorisation is not there yet");
pub(crate) const AUTHORIZER: State =
    Refused("there is no authorizer in this version, so whoever reaches a listener may do everything");
pub(crate) const SASL: State = AcceptedNotYet("SASL is not there yet");
pub(crate) const OAUTH: State = AcceptedNotYet("SASL/OAUTHBEARER is not there yet");
pub(crate) const KERBEROS: State = AcceptedNotYet("SASL/GSSAPI (Kerberos) is not there");
pub(crate) const TLS: State = AcceptedNotYet("TLS is not there yet");
pub(crate) const TOKENS: State = AcceptedNotYet("delegation tokens are not there yet");
