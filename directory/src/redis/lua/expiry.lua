-- What has had its time ends, oldest first, a bounded number of terms in one step.

-- Closes up to `max` sessions that nobody claimed from an ended run, and forgets the run once none is
-- left. How many there were.
local function forget_run(run, max)
    -- '0' comes after '/'.
    local from, to = '[' .. owned_by(run, ''), '(' .. run .. '0'
    local members = call('ZRANGE', OWNED, from, to, 'BYLEX', 'LIMIT', 0, max)
    for _, member in ipairs(members) do
        local id = member:sub(#run + 2)
        local f = hex(id, 32) and try('HMGET', session_key(id), 'owner', 'code')
        if not hex(id, 32) or (f and f[1] and f[1] ~= run) then
            call('ZREM', OWNED, member)
        else
            discard(id, run, f and f[2] ~= '' and f[2])
        end
    end
    if #members < max then
        forget_end(run)
    end
    return #members
end

local function expire()
    local left = EXPIRE_MAX
    local over = call('ZRANGE', DUE, '-inf', decimal(now), 'BYSCORE', 'LIMIT', 0, EXPIRE_MAX)
    for _, term in ipairs(over) do
        if left <= 0 then
            return
        end
        left = left - 1
        local kind, what = term:sub(1, 2), term:sub(3)
        if kind == 'a:' then
            local n = stored_node(what)
            if n and n.till <= now then
                end_run(n)
            elseif n then
                call('ZADD', DUE, decimal(n.till), term)
            else
                call('ZREM', DUE, term)
                call('SREM', LIVE, what)
                call('DEL', node_key(what))
            end
        elseif kind == 'b:' and split(what) then
            left = left - forget_run(what, left + 1)
        elseif kind == 'c:' and hex(what, 32) then
            if try('HGET', session_key(what), 'owner') then
                unlist({ id = what })
            else
                call('ZREM', LISTED, what)
                call('ZREM', DUE, term)
            end
        else
            call('ZREM', DUE, term)
        end
    end
end
