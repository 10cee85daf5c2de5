/** An order to move money: its id, from which account, to which, and how much. */
record Transfer(String id, String from, String to, long amount) {
    String text() {
        return String.join(" ", id, from, to, Long.toString(amount));
    }

    static Transfer parse(String text) {
        String[] parts = text.split(" ");
        return new Transfer(parts[0], parts[1], parts[2], Long.parseLong(parts[3]));
    }
}
