-- An epoch begins with a new server, with an empty one, and with one that is another than before: after a restart or a
-- failover Redis may hold less than it was told. INFO may be forbidden; then a restart alone begins none.
if redis.replicate_commands then
    redis.replicate_commands()
end
local server = redis.pcall('INFO', 'server')
local run = type(server) == 'string' and string.match(server, 'run_id:(%w+)') or ''
local book = redis.pcall('HMGET', KEYS[1], 'epoch', 'run', 'seq', 'ticket')
local epoch, seq, ticket = book[1], tonumber(book[3] or '0'), tonumber(book[4] or '0')
if book.err or not epoch or book[2] ~= run then
    epoch, seq, ticket = ARGV[1], 0, 0
    redis.call('DEL', KEYS[1])
    redis.call('HSET', KEYS[1], 'epoch', epoch, 'run', run, 'seq', seq)
end
