import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.time.Instant;
import java.util.Comparator;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.TreeMap;

import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.LongDeserializer;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;
import org.apache.kafka.streams.CloseOptions;
import org.apache.kafka.streams.KafkaStreams;

/** Ten minutes of page views in a few seconds, over two instances of which one stops in the middle; every count is checked. */
public final class Demo {
    private static final List<String> COUNTRIES = List.of("BR", "CZ", "DE", "IN", "US");
    private static final int USERS = 40;
    private static final int VIEWS = 6_000;
    private static final int PARTITIONS = 4;
    private static final Duration LIMIT = Duration.ofSeconds(90);
    /** In the past, so that the demo need not wait for its minutes. */
    private static final Instant BEGIN = Instant.ofEpochSecond(Instant.now().getEpochSecond() / 60 * 60).minusSeconds(900);

    private final String bootstrap = System.getenv("BOOTSTRAP_SERVERS");
    private final String guarantee = Optional.ofNullable(System.getenv("PROCESSING_GUARANTEE")).orElse("exactly_once_v2");
    private final String application = "views-per-country-" + System.currentTimeMillis();
    private final ViewsPerCountry.Topics topics =
        new ViewsPerCountry.Topics(application + "-views", application + "-users", application + "-counts");
    private final Map<String, Long> expected = new TreeMap<>();

    public static void main(String[] args) throws Exception {
        var state = Files.createTempDirectory("views-per-country-");
        try {
            new Demo().run(state);
        } finally {
            delete(state);
        }
    }

    private void run(Path state) throws Exception {
        createTopics();
        var first = ViewsPerCountry.start(bootstrap, application, topics, state.resolve("first"), guarantee);
        var second = ViewsPerCountry.start(bootstrap, application, topics, state.resolve("second"), guarantee);
        try {
            view(0, VIEWS / 2);
            waitForCounts();
            System.out.printf("%d views are counted; one of the two instances stops%n", VIEWS / 2);
            close(first);
            view(VIEWS / 2, VIEWS);
            waitForCounts();
        } finally {
            close(first);
            close(second);
        }
        System.out.printf("proved: %d views of %d users are in %d counts for %d countries, each right to the last view, with %s, "
            + "though an instance left in the middle%n", VIEWS, USERS, expected.size(), COUNTRIES.size(), guarantee);
    }

    private void createTopics() throws Exception {
        Map<String, Object> client = Map.of("bootstrap.servers", bootstrap);
        Optional<Integer> partitions = Optional.of(PARTITIONS);
        try (var admin = Admin.create(client)) {
            admin.createTopics(List.of(
                new NewTopic(topics.views(), partitions, Optional.empty()),
                new NewTopic(topics.users(), partitions, Optional.empty()).configs(Map.of("cleanup.policy", "compact")),
                new NewTopic(topics.counts(), partitions, Optional.empty()))).all().get();
        }
        try (var producer = producer()) {
            for (int user = 0; user < USERS; user++) {
                // Before the first view: a join sees the table as it was at the time of the stream's record.
                producer.send(new ProducerRecord<>(topics.users(), null, BEGIN.toEpochMilli() - 1, name(user), country(user)));
            }
        }
    }

    /** Produces views from number `from` up to number `to`, a tenth of a second apart, and counts by hand what is to come out. */
    private void view(int from, int to) {
        try (var producer = producer()) {
            for (int number = from; number < to; number++) {
                int user = number * 7 % USERS;
                Instant at = BEGIN.plusMillis(number * 100L);
                producer.send(new ProducerRecord<>(topics.views(), null, at.toEpochMilli(), name(user), "/page/" + number % 11));
                Instant minute = Instant.ofEpochSecond(at.getEpochSecond() / 60 * 60);
                expected.merge(country(user) + " " + minute, 1L, Long::sum);
            }
        }
    }

    private KafkaProducer<String, String> producer() {
        // acks=all and idempotence are the defaults; closing waits for what was sent.
        return new KafkaProducer<>(Map.of("bootstrap.servers", bootstrap, "linger.ms", 20), new StringSerializer(),
            new StringSerializer());
    }

    /** Reads the counts from the beginning until the last one of each country and minute is as expected. */
    private void waitForCounts() {
        Map<String, Object> properties = Map.of("bootstrap.servers", bootstrap, "group.id", application + "-reader",
            "enable.auto.commit", false, "auto.offset.reset", "earliest", "isolation.level", "read_committed");
        Map<String, Long> found = new HashMap<>();
        var deadline = Instant.now().plus(LIMIT);
        try (var consumer = new KafkaConsumer<>(properties, new StringDeserializer(), new LongDeserializer())) {
            var partitions = consumer.partitionsFor(topics.counts()).stream()
                .map(p -> new TopicPartition(p.topic(), p.partition())).toList();
            consumer.assign(partitions);
            consumer.seekToBeginning(partitions);
            while (!found.equals(expected)) {
                if (Instant.now().isAfter(deadline)) {
                    throw new IllegalStateException("the counts are " + new TreeMap<>(found) + " instead of " + expected);
                }
                consumer.poll(Duration.ofMillis(200)).forEach(record -> found.put(record.key(), record.value()));
            }
        }
    }

    private static void close(KafkaStreams streams) {
        // Ends what is begun, commits, and leaves the group, so that the other instance goes on at once.
        streams.close(CloseOptions.groupMembershipOperation(CloseOptions.GroupMembershipOperation.LEAVE_GROUP)
            .withTimeout(Duration.ofSeconds(30)));
    }

    private static String name(int user) {
        return "user-" + user;
    }

    private static String country(int user) {
        return COUNTRIES.get(user % COUNTRIES.size());
    }

    private static void delete(Path folder) throws IOException {
        try (var paths = Files.walk(folder)) {
            for (Path path : paths.sorted(Comparator.reverseOrder()).toList()) {
                Files.delete(path);
            }
        }
    }
}
