import java.time.Duration;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.AuthorizationException;
import org.apache.kafka.common.errors.InvalidProducerEpochException;
import org.apache.kafka.common.errors.ProducerFencedException;
import org.apache.kafka.common.errors.WakeupException;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

/**
 * The application: of every transfer it makes two postings, one that takes and one that gives. Both, and the note that the
 * transfer is done, are one transaction: all of it happens, or none.
 *
 * <p>Arguments: the topics of transfers and of postings, and the name of this instance.
 */
public class Bank {
    private final String transfers;
    private final String postings;
    private final KafkaConsumer<String, String> consumer;
    final KafkaProducer<String, String> producer;
    private volatile boolean stopping;

    Bank(String bootstrap, String transfers, String postings, String instance) {
        this.transfers = transfers;
        this.postings = postings;
        consumer = new KafkaConsumer<>(Map.of(
            "bootstrap.servers", bootstrap,
            "group.id", transfers + "-bank",
            "auto.offset.reset", "earliest",
            // Offsets are committed by the producer, within the transaction.
            "enable.auto.commit", false,
            "isolation.level", "read_committed",
            "session.timeout.ms", 6_000,
            "max.poll.records", 20), new StringDeserializer(), new StringDeserializer());
        producer = new KafkaProducer<>(Map.of(
            "bootstrap.servers", bootstrap,
            // Whoever starts under this name ends what the last bearer left unfinished, and shuts it out should it still live.
            "transactional.id", transfers + "-" + instance,
            "transaction.timeout.ms", 10_000), new StringSerializer(), new StringSerializer());
    }

    public static void main(String[] args) {
        start(new Bank(System.getenv("BOOTSTRAP_SERVERS"), args[0], args[1], args[2]));
    }

    static void start(Bank bank) {
        var main = Thread.currentThread();
        Runtime.getRuntime().addShutdownHook(new Thread(() -> bank.stop(main)));
        bank.run();
    }

    /** SIGTERM: the transaction that is under way is finished first. */
    private void stop(Thread main) {
        stopping = true;
        consumer.wakeup();
        try {
            main.join(Duration.ofSeconds(20).toMillis());
        } catch (InterruptedException e) {
            Thread.currentThread().interrupt();
        }
    }

    void run() {
        try (consumer; producer) {
            producer.initTransactions();
            consumer.subscribe(List.of(transfers));
            while (!stopping) {
                var batch = consumer.poll(Duration.ofMillis(500));
                if (!batch.isEmpty()) {
                    handle(batch);
                }
            }
        } catch (WakeupException e) {
            // Asked to stop while it waited for transfers.
        }
    }

    private void handle(ConsumerRecords<String, String> batch) {
        try {
            producer.beginTransaction();
            batch.forEach(record -> post(Transfer.parse(record.value())));
            // With the group's metadata, an instance that has lost its partitions cannot commit.
            producer.sendOffsetsToTransaction(next(batch), consumer.groupMetadata());
            producer.commitTransaction();
        } catch (ProducerFencedException | InvalidProducerEpochException | AuthorizationException e) {
            // Another instance has our name: it goes on, this one must not.
            throw e;
        } catch (KafkaException e) {
            System.err.println("a transaction is taken back and tried again: " + e);
            producer.abortTransaction();
            rewind();
        }
    }

    private void post(Transfer transfer) {
        producer.send(new ProducerRecord<>(postings, transfer.from(), transfer.id() + " " + -transfer.amount()));
        check(transfer);
        producer.send(new ProducerRecord<>(postings, transfer.to(), transfer.id() + " " + transfer.amount()));
    }

    /** Something slow between the two halves: between them an instance may die. */
    void check(Transfer transfer) {
        try {
            Thread.sleep(transfer.amount() % 3);
        } catch (InterruptedException e) {
            Thread.currentThread().interrupt();
        }
    }

    private static Map<TopicPartition, OffsetAndMetadata> next(ConsumerRecords<String, String> batch) {
        return new HashMap<>(batch.nextOffsets());
    }

    /** Back to where the last transaction ended, as if the batch had never been seen. */
    private void rewind() {
        var committed = consumer.committed(consumer.assignment());
        for (TopicPartition partition : consumer.assignment()) {
            OffsetAndMetadata position = committed.get(partition);
            if (position == null) {
                consumer.seekToBeginning(List.of(partition));
            } else {
                consumer.seek(partition, position);
            }
        }
    }
}
