/**
 * An instance of the bank that dies in the midst of a transaction: it has taken from one account and not given to the other.
 *
 * <p>Arguments: those of {@link Bank}.
 */
public final class DyingBank extends Bank {
    /** The transfer in which it dies. */
    static final int LAST_TRANSFER = 300;
    /** How it ends, as after {@code kill -9}. */
    static final int EXIT_CODE = 137;

    private int checked;

    private DyingBank(String bootstrap, String transfers, String postings, String instance) {
        super(bootstrap, transfers, postings, instance);
    }

    public static void main(String[] args) {
        start(new DyingBank(System.getenv("BOOTSTRAP_SERVERS"), args[0], args[1], args[2]));
    }

    @Override
    void check(Transfer transfer) {
        checked++;
        if (checked == LAST_TRANSFER) {
            // The brokers have what was posted before it dies, so there is something to take back.
            producer.flush();
            // No hook runs and nothing is closed.
            Runtime.getRuntime().halt(EXIT_CODE);
        }
        super.check(transfer);
    }
}
