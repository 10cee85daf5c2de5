import java.io.IOException;
import java.time.Duration;
import java.time.Instant;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Random;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;

import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.ClassicGroupState;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.GroupIdNotFoundException;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

/** Orders transfers, lets two instances of the bank make them, of which one dies in a transaction, and audits every account. */
public final class Demo {
    private static final int ACCOUNTS = 20;
    private static final int TRANSFERS = 3_000;
    private static final int PARTITIONS = 4;
    private static final Duration LIMIT = Duration.ofSeconds(90);

    private final String bootstrap = System.getenv("BOOTSTRAP_SERVERS");
    private final String transfers = "transfers-" + System.currentTimeMillis();
    private final String postings = transfers + "-postings";
    private final List<Transfer> ordered = new ArrayList<>();
    private final List<Process> banks = new ArrayList<>();

    public static void main(String[] args) throws Exception {
        new Demo().run();
    }

    private void run() throws Exception {
        createTopics();
        try {
            var first = startBank("DyingBank", "first");
            var second = startBank("Bank", "second");
            // Transfers come when each has its partitions, so that the first has enough of them to die in one.
            waitForMembers(2);
            order();
            waitForDeath(first);
            System.out.printf("an instance of the bank died in the midst of its transfer %d%n", DyingBank.LAST_TRANSFER);
            var replacement = startBank("Bank", "first");
            waitForPostings(2 * TRANSFERS);
            stop(second);
            stop(replacement);
        } finally {
            for (Process bank : banks) {
                bank.destroyForcibly().waitFor();
            }
        }
        audit();
    }

    private void createTopics() throws Exception {
        Map<String, Object> client = Map.of("bootstrap.servers", bootstrap);
        try (var admin = Admin.create(client)) {
            admin.createTopics(List.of(new NewTopic(transfers, Optional.of(PARTITIONS), Optional.empty()),
                new NewTopic(postings, Optional.of(PARTITIONS), Optional.empty()))).all().get();
        }
    }

    private void order() {
        var random = new Random(4);
        Map<String, Object> properties = Map.of("bootstrap.servers", bootstrap);
        try (var producer = new KafkaProducer<>(properties, new StringSerializer(), new StringSerializer())) {
            for (int number = 0; number < TRANSFERS; number++) {
                int from = random.nextInt(ACCOUNTS);
                int to = (from + 1 + random.nextInt(ACCOUNTS - 1)) % ACCOUNTS;
                var transfer = new Transfer("transfer-" + number, "account-" + from, "account-" + to, 1 + random.nextInt(100));
                ordered.add(transfer);
                producer.send(new ProducerRecord<>(transfers, transfer.from(), transfer.text()));
            }
        }
    }

    /** A process of its own, so that it can die as processes do. */
    private Process startBank(String program, String instance) throws IOException {
        var java = ProcessHandle.current().info().command().orElse("java");
        var bank = new ProcessBuilder(java, "-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp",
            System.getProperty("java.class.path"), program, transfers, postings, instance).inheritIO().start();
        banks.add(bank);
        return bank;
    }

    private void stop(Process bank) throws InterruptedException {
        bank.destroy();
        // 143 is how Java ends after SIGTERM.
        if (!bank.waitFor(30, TimeUnit.SECONDS) || bank.exitValue() != 143) {
            throw new IllegalStateException("an instance of the bank did not end as asked");
        }
    }

    /** Until the group of the bank has so many members and each has its share of the partitions. */
    private void waitForMembers(int count) throws Exception {
        var deadline = Instant.now().plus(LIMIT);
        Map<String, Object> client = Map.of("bootstrap.servers", bootstrap);
        try (var admin = Admin.create(client)) {
            while (!hasMembers(admin, count)) {
                if (Instant.now().isAfter(deadline)) {
                    throw new IllegalStateException("the bank has no " + count + " instances at work within " + LIMIT);
                }
                Thread.sleep(200);
            }
        }
    }

    private boolean hasMembers(Admin admin, int count) throws Exception {
        var group = transfers + "-bank";
        try {
            var found = admin.describeClassicGroups(List.of(group)).all().get().get(group);
            return found.state() == ClassicGroupState.STABLE && found.members().size() == count
                && found.members().stream().noneMatch(member -> member.assignment().topicPartitions().isEmpty());
        } catch (ExecutionException e) {
            if (e.getCause() instanceof GroupIdNotFoundException) {
                // Nobody has joined yet.
                return false;
            }
            throw e;
        }
    }

    private void waitForDeath(Process bank) throws InterruptedException {
        if (!bank.waitFor(LIMIT.toSeconds(), TimeUnit.SECONDS) || bank.exitValue() != DyingBank.EXIT_CODE) {
            throw new IllegalStateException("the instance of the bank that should have died in a transaction did not");
        }
    }

    private void waitForPostings(int count) throws InterruptedException {
        var deadline = Instant.now().plus(LIMIT);
        for (int found = 0; found < count; Thread.sleep(200)) {
            found = read("read_committed").size();
            if (banks.stream().noneMatch(Process::isAlive)) {
                throw new IllegalStateException("no instance of the bank is left, with " + found + " of " + count + " postings");
            }
            if (Instant.now().isAfter(deadline)) {
                throw new IllegalStateException(found + " of " + count + " postings within " + LIMIT);
            }
        }
    }

    /** A line of an account: which transfer, and how much it gave or took. */
    private record Posting(String account, String transfer, long amount) {
    }

    private List<Posting> read(String isolation) {
        Map<String, Object> properties = Map.of("bootstrap.servers", bootstrap, "isolation.level", isolation, "enable.auto.commit",
            false);
        var found = new ArrayList<Posting>();
        try (var consumer = new KafkaConsumer<>(properties, new StringDeserializer(), new StringDeserializer())) {
            var partitions = consumer.partitionsFor(postings).stream().map(p -> new TopicPartition(p.topic(), p.partition())).toList();
            consumer.assign(partitions);
            consumer.seekToBeginning(partitions);
            // With read_committed this is the last stable offset: what follows is not decided yet.
            var ends = consumer.endOffsets(partitions);
            while (partitions.stream().anyMatch(p -> consumer.position(p) < ends.get(p))) {
                consumer.poll(Duration.ofMillis(200)).forEach(record -> {
                    String[] parts = record.value().split(" ");
                    found.add(new Posting(record.key(), parts[0], Long.parseLong(parts[1])));
                });
            }
        }
        return found;
    }

    private void audit() {
        var postings = read("read_committed");
        var found = new HashMap<String, List<Posting>>();
        postings.forEach(posting -> found.computeIfAbsent(posting.transfer(), id -> new ArrayList<>()).add(posting));
        for (Transfer transfer : ordered) {
            var expected = List.of(new Posting(transfer.from(), transfer.id(), -transfer.amount()),
                new Posting(transfer.to(), transfer.id(), transfer.amount()));
            var made = found.getOrDefault(transfer.id(), List.of());
            if (made.size() != 2 || !made.containsAll(expected)) {
                throw new IllegalStateException(transfer + " was posted as " + made);
            }
        }
        long sum = postings.stream().mapToLong(Posting::amount).sum();
        if (sum != 0 || postings.size() != 2 * TRANSFERS) {
            throw new IllegalStateException(postings.size() + " postings, which add up to " + sum);
        }
        int takenBack = read("read_uncommitted").size() - postings.size();
        if (takenBack < 1) {
            throw new IllegalStateException("no posting was taken back, though an instance died in the midst of a transaction");
        }
        System.out.printf("proved: %d transfers between %d accounts were each made exactly once and whole, and the money is all there, "
            + "though an instance died in a transaction; it left %d postings, which read_committed does not show%n",
            TRANSFERS, ACCOUNTS, takenBack);
    }
}
