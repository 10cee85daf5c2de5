// Package ledger is what the Go client programs share: the records of a run, the check of what a group received, and
// the one JSON line that a program prints. It knows no Kafka client.
package ledger

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Partitions and Replication are those of every topic that a run creates.
const (
	Partitions  = 3
	Replication = 3
)

var padding = strings.Repeat("odradek ", 10)

// Key is the key of record i.
func Key(i int) string { return fmt.Sprintf("key-%d", i%97) }

// Value is the value of record i.
func Value(i int) string { return fmt.Sprintf("%06d %s", i, padding) }

// Position is where a record lies.
type Position struct {
	Partition int32
	Offset    int64
}

type row struct {
	offset     int64
	key, value string
}

// Ledger holds received records in the order of receipt for each partition. Members may add at the same time.
type Ledger struct {
	mutex   sync.Mutex
	rows    map[int32][]row
	members map[int32]map[string]bool
	count   int
}

// New makes an empty ledger.
func New() *Ledger {
	return &Ledger{rows: map[int32][]row{}, members: map[int32]map[string]bool{}}
}

// Add notes one received record.
func (l *Ledger) Add(member string, partition int32, offset int64, key, value []byte) {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	l.rows[partition] = append(l.rows[partition], row{offset, string(key), string(value)})
	if l.members[partition] == nil {
		l.members[partition] = map[string]bool{}
	}
	l.members[partition][member] = true
	l.count++
}

// Count is how many records were received.
func (l *Ledger) Count() int {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	return l.count
}

// Verify says the first difference from: every record once, in order, each partition by one of two members, each where
// its acknowledgement said.
func (l *Ledger) Verify(count int, acked map[int]Position) error {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	seen := map[int]Position{}
	members := map[string]bool{}
	for partition, rows := range l.rows {
		if partition < 0 || partition >= Partitions {
			return fmt.Errorf("partition %d does not exist", partition)
		}
		if err := verifyPartition(partition, rows, seen); err != nil {
			return err
		}
		if len(l.members[partition]) != 1 {
			return fmt.Errorf("partition %d was read by %v", partition, l.members[partition])
		}
		for member := range l.members[partition] {
			members[member] = true
		}
	}
	for i := range count {
		position, there := seen[i]
		if !there {
			return fmt.Errorf("record %d is missing (%d of %d there)", i, len(seen), count)
		}
		if ack, ok := acked[i]; !ok || ack != position {
			return fmt.Errorf("record %d: acknowledged at %v, found at %v", i, ack, position)
		}
	}
	if len(seen) != count || len(members) != 2 {
		return fmt.Errorf("%d records of %d, members %v", len(seen), count, members)
	}
	return nil
}

func verifyPartition(partition int32, rows []row, seen map[int]Position) error {
	last := -1
	for n, r := range rows {
		where := fmt.Sprintf("partition %d offset %d", partition, r.offset)
		if r.offset != int64(n) {
			return fmt.Errorf("%s: receipt %d", where, n)
		}
		if len(r.value) < 6 {
			return fmt.Errorf("%s: a damaged value %q", where, r.value)
		}
		i, err := strconv.Atoi(r.value[:6])
		if err != nil || r.value != Value(i) || r.key != Key(i) {
			return fmt.Errorf("%s: a damaged record", where)
		}
		if before, twice := seen[i]; twice {
			return fmt.Errorf("%s: record %d was already at %v", where, i, before)
		}
		if i <= last {
			return fmt.Errorf("%s: record %d came after record %d", where, i, last)
		}
		last = i
		seen[i] = Position{partition, r.offset}
	}
	return nil
}

// WaitFor polls until the condition holds.
func WaitFor(what string, limit time.Duration, condition func() bool) error {
	for end := time.Now().Add(limit); !condition(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			return fmt.Errorf("%s: not within %s", what, limit)
		}
	}
	return nil
}

// Report is the one JSON line of a program.
type Report struct {
	row    map[string]string
	failed bool
}

// NewReport starts a report in which no column has run.
func NewReport(client, version string) *Report {
	row := map[string]string{"client": client, "version": version, "detail": ""}
	for _, column := range []string{"create", "list", "describe", "produce", "consume"} {
		row[column] = "-"
	}
	return &Report{row: row}
}

// Step runs a function under a column's name; after the first failure nothing more runs.
func (r *Report) Step(column string, function func() error) {
	if r.failed {
		return
	}
	if err := function(); err != nil {
		r.failed = true
		r.row[column] = "FAILED"
		r.row["detail"] = column + ": " + err.Error()
		return
	}
	r.row[column] = "ok"
}

// End prints the line and ends the process.
func (r *Report) End() {
	line, _ := json.Marshal(r.row)
	fmt.Println(string(line))
	if r.failed {
		os.Exit(1)
	}
	os.Exit(0)
}
