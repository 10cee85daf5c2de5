import java.nio.file.Path;
import java.time.Duration;
import java.util.Properties;

import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Grouped;
import org.apache.kafka.streams.kstream.KTable;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.kstream.TimeWindows;

/** The application: page views, joined with where their users live, counted for each country and minute. */
final class ViewsPerCountry {
    /** Topics: views (user to page), users (user to country, compacted), counts ("country minute" to a number). */
    record Topics(String views, String users, String counts) {
    }

    static Topology topology(Topics topics) {
        var strings = Serdes.String();
        var builder = new StreamsBuilder();
        // A table is a topic of which the last record of each key counts.
        KTable<String, String> countries = builder.table(topics.users(), Consumed.with(strings, strings));
        builder.stream(topics.views(), Consumed.with(strings, strings))
            // Both topics have the same key and number of partitions: the join needs no network.
            .join(countries, (page, country) -> country)
            // Another key: Streams sends the records through a repartition topic, so that a country meets in one place.
            .groupBy((user, country) -> country, Grouped.with("by-country", strings, strings))
            // Partitions are read at different paces, so a view may come long after later ones: within an hour it still counts.
            .windowedBy(TimeWindows.ofSizeAndGrace(Duration.ofMinutes(1), Duration.ofHours(1)))
            // The counts live in a local store, and every change of it in a changelog topic.
            .count(Materialized.as("views-per-country"))
            .toStream((window, count) -> window.key() + " " + window.window().startTime())
            .to(topics.counts(), Produced.with(strings, Serdes.Long()));
        return builder.build();
    }

    /** One instance. Others with the same application id share the partitions with it. */
    static KafkaStreams start(String bootstrap, String applicationId, Topics topics, Path stateDirectory, String guarantee) {
        var properties = new Properties();
        properties.put(StreamsConfig.APPLICATION_ID_CONFIG, applicationId);
        properties.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, bootstrap);
        properties.put(StreamsConfig.STATE_DIR_CONFIG, stateDirectory.toString());
        properties.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, guarantee);
        // A second copy of every store on another instance, which goes on at once when the first is lost.
        properties.put(StreamsConfig.NUM_STANDBY_REPLICAS_CONFIG, 1);
        properties.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, 200);
        properties.put(StreamsConfig.consumerPrefix("auto.offset.reset"), "earliest");
        properties.put(StreamsConfig.consumerPrefix("session.timeout.ms"), 10_000);
        var streams = new KafkaStreams(topology(topics), properties);
        streams.start();
        return streams;
    }

    private ViewsPerCountry() {
    }
}
