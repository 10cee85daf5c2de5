// Sarama against a cluster: sarama BOOTSTRAP TOPIC GROUP COUNT.
package main

import (
	"context"
	"fmt"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/IBM/sarama"

	"odradek/interop/ledger"
)

func config() *sarama.Config {
	c := sarama.NewConfig()
	c.Version = sarama.V4_0_0_0
	c.Producer.RequiredAcks = sarama.WaitForAll
	c.Producer.Idempotent = true
	c.Net.MaxOpenRequests = 1
	c.Producer.Return.Successes = true
	c.Producer.Return.Errors = true
	c.Producer.Flush.Frequency = 5 * time.Millisecond
	c.Consumer.Offsets.Initial = sarama.OffsetOldest
	c.Consumer.Offsets.AutoCommit.Enable = false
	c.Consumer.Return.Errors = true
	return c
}

func described(admin sarama.ClusterAdmin, topic string) error {
	return ledger.WaitFor("three partitions, each with three replicas in sync", 30*time.Second, func() bool {
		found, err := admin.DescribeTopics([]string{topic})
		if err != nil || len(found) != 1 || len(found[0].Partitions) != ledger.Partitions {
			return false
		}
		for _, p := range found[0].Partitions {
			if len(p.Replicas) != ledger.Replication || len(p.Isr) != ledger.Replication {
				return false
			}
		}
		return true
	})
}

func produce(brokers []string, topic string, count int) (map[int]ledger.Position, error) {
	producer, err := sarama.NewAsyncProducer(brokers, config())
	if err != nil {
		return nil, err
	}
	go func() {
		for i := range count {
			producer.Input() <- &sarama.ProducerMessage{
				Topic: topic, Key: sarama.StringEncoder(ledger.Key(i)), Value: sarama.StringEncoder(ledger.Value(i)), Metadata: i,
			}
		}
	}()
	acked := map[int]ledger.Position{}
	limit := time.After(90 * time.Second)
	for len(acked) < count {
		select {
		case m := <-producer.Successes():
			acked[m.Metadata.(int)] = ledger.Position{Partition: m.Partition, Offset: m.Offset}
		case e := <-producer.Errors():
			return nil, e
		case <-limit:
			return nil, fmt.Errorf("%d of %d acknowledged within 90 s", len(acked), count)
		}
	}
	return acked, producer.Close()
}

// member is one consumer of the group; it commits what it received when its session ends.
type member struct {
	name     string
	ledger   *ledger.Ledger
	group    sarama.ConsumerGroup
	assigned atomic.Int32
	err      atomic.Value
}

func (m *member) Setup(s sarama.ConsumerGroupSession) error {
	n := 0
	for _, partitions := range s.Claims() {
		n += len(partitions)
	}
	m.assigned.Store(int32(n))
	return nil
}

func (m *member) Cleanup(s sarama.ConsumerGroupSession) error {
	s.Commit()
	return nil
}

func (m *member) ConsumeClaim(s sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	for r := range claim.Messages() {
		m.ledger.Add(m.name, r.Partition, r.Offset, r.Key, r.Value)
		s.MarkMessage(r, "")
	}
	return nil
}

func (m *member) run(ctx context.Context, topic string) {
	for ctx.Err() == nil {
		if err := m.group.Consume(ctx, []string{topic}, m); err != nil {
			m.err.Store(err)
			return
		}
	}
}

// groupOfTwo starts both members and gives back a function that ends them.
func groupOfTwo(brokers []string, topic, group string, l *ledger.Ledger) ([]*member, func() error, error) {
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	var members []*member
	for i := range 2 {
		g, err := sarama.NewConsumerGroup(brokers, group, config())
		if err != nil {
			cancel()
			return nil, nil, err
		}
		m := &member{name: fmt.Sprintf("member-%d", i), ledger: l, group: g}
		members = append(members, m)
		done.Go(func() { m.run(ctx, topic) })
		go func() {
			for err := range g.Errors() {
				m.err.Store(err)
			}
		}()
	}
	end := func() error {
		cancel()
		done.Wait()
		for _, m := range members {
			if err := m.err.Load(); err != nil {
				return err.(error)
			}
			if err := m.group.Close(); err != nil {
				return err
			}
		}
		return nil
	}
	err := ledger.WaitFor("both members have partitions", 60*time.Second, func() bool {
		a, b := members[0].assigned.Load(), members[1].assigned.Load()
		return a > 0 && b > 0 && a+b == ledger.Partitions
	})
	return members, end, err
}

func committed(admin sarama.ClusterAdmin, client sarama.Client, topic, group string) error {
	var partitions []int32
	for p := range int32(ledger.Partitions) {
		partitions = append(partitions, p)
	}
	offsets, err := admin.ListConsumerGroupOffsets(group, map[string][]int32{topic: partitions})
	if err != nil {
		return err
	}
	for _, p := range partitions {
		end, err := client.GetOffset(topic, p, sarama.OffsetNewest)
		if err != nil {
			return err
		}
		if block := offsets.GetBlock(topic, p); block == nil || block.Offset != end {
			return fmt.Errorf("partition %d: committed %+v, end %d", p, block, end)
		}
	}
	return nil
}

func version(path string) string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, d := range info.Deps {
			if d.Path == path {
				return strings.TrimPrefix(d.Version, "v")
			}
		}
	}
	return "?"
}

func main() {
	brokers, topic, group := strings.Split(os.Args[1], ","), os.Args[2], os.Args[3]
	count, _ := strconv.Atoi(os.Args[4])
	report := ledger.NewReport("sarama", version("github.com/IBM/sarama"))
	var admin sarama.ClusterAdmin
	var client sarama.Client
	var end func() error
	var acked map[int]ledger.Position
	l := ledger.New()
	report.Step("create", func() (err error) {
		if client, err = sarama.NewClient(brokers, config()); err != nil {
			return err
		}
		if admin, err = sarama.NewClusterAdminFromClient(client); err != nil {
			return err
		}
		return admin.CreateTopic(topic, &sarama.TopicDetail{NumPartitions: ledger.Partitions, ReplicationFactor: ledger.Replication}, false)
	})
	report.Step("list", func() error {
		return ledger.WaitFor("topic in the list", 20*time.Second, func() bool {
			topics, err := admin.ListTopics()
			_, there := topics[topic]
			return err == nil && there
		})
	})
	report.Step("describe", func() error { return described(admin, topic) })
	report.Step("consume", func() (err error) { _, end, err = groupOfTwo(brokers, topic, group, l); return err })
	report.Step("produce", func() (err error) { acked, err = produce(brokers, topic, count); return err })
	report.Step("consume", func() error {
		if err := ledger.WaitFor("all records", 90*time.Second, func() bool { return l.Count() >= count }); err != nil {
			return err
		}
		if err := end(); err != nil {
			return err
		}
		if err := l.Verify(count, acked); err != nil {
			return err
		}
		return committed(admin, client, topic, group)
	})
	report.End()
}
